# KL that was foretold against KL that was measured, from proxy.tsv: gnuplot proxy.gp
set datafile separator "\t"
set datafile columnheaders
set datafile commentschars ""
set datafile missing NaN # of lines: skipped, not broken
set encoding utf8
file = 'proxy.tsv'

n = 0; low = 1e9; high = 0
stats file using (n = n + column('off'), k = column('kl'), p = column('kl_by_outputs'), \
    low = k < low ? k : low, low = p < low ? p : low, high = k > high ? k : high, \
    high = p > high ? p : high, 0) nooutput
low = 10 ** (floor(5 * log10(low / 1.3)) / 5.0)
high = 10 ** (ceil(5 * log10(high * 1.3)) / 5.0)
# The names of those outside stand in a column on the right, in the order of what was foretold.
at = high * (high / low) ** 0.09
slot(s) = low * (high / low) ** ((s + 0.5) / (n > 0 ? n : 1))
spread(share) = low * (high / low) ** share
floor_(x) = x > low ? x : low
name(a, b) = b eq '-' ? a : a . ' ' . b
outside(x) = column('off') > 0 ? x : NaN
is(word, x) = strcol('inputs') eq word ? x : NaN

set terminal svg size 1000, 160 + (n > 34 ? 17 * n : 580) font 'sans-serif,12' background '#ffffff' noenhanced
set output 'proxy.svg'
set title 'What errors of matrices foretell: KL by outputs against KL measured' font ',15'
set xlabel 'KL measured, nats per token; mean and interval' offset -20, 0
set ylabel 'KL foretold'
set logscale xy
set xrange [low:high * (high / low) ** 0.4]
set yrange [low:high]
set xtics nomirror ()
do for [e = -9:2] { if (10.0 ** e >= low && 10.0 ** e <= high) { set xtics add (sprintf('%g', 10.0 ** e) 10.0 ** e) } }
set ytics nomirror format '%g'
set mytics 10
set border 3
set key bmargin left horizontal samplen 2
set bmargin 8
set samples 200
set style fill solid noborder
set style textbox opaque noborder

plot sample [0:1] '+' using (spread($1)):(0.9 * spread($1)):(1.1 * spread($1)) with filledcurves fc rgb '#d7e6f2' title 'within 10 %', \
    [0:1] '+' using (spread($1)):(spread($1)) with lines lw 1 lc rgb '#5c6670' title 'as foretold', \
    file using (outside(column('kl'))):(column('kl_by_outputs')):(at - column('kl')): \
        (slot(column('slot')) - column('kl_by_outputs')) with vectors nohead lw 0.6 lc rgb '#c3cbd2' notitle, \
    file using (column('kl')):(column('kl_by_outputs')):(floor_(column('kl_low'))):(column('kl_high')) \
        with xerrorbars pt 0 lw 1 lc rgb '#5c6670' notitle, \
    file using (is('plain', column('kl'))):(column('kl_by_outputs')) with points pt 7 ps 0.9 \
        lc rgb '#0072b2' title 'weights alone are quantized', \
    file using (is('quantized', column('kl'))):(column('kl_by_outputs')) with points pt 9 ps 1.1 \
        lc rgb '#b3261e' title 'inputs are, too', \
    file using (outside(at * 1.02)):(slot(column('slot'))): \
        (sprintf('%s  %.2f', name(strcol('name'), strcol('params')), column('kl_by_outputs') / column('kl'))) \
        with labels left textcolor rgb '#1b1f23' notitle, \
    NaN with lines lw 1 lc rgb '#cfd6dc' title 'off by more than 10 %: foretold / measured'
