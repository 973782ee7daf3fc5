# KL of a language model's predictions against its size, from quality.tsv: gnuplot quality.gp
set datafile separator "\t"
set datafile columnheaders
set datafile commentschars ""
set datafile missing NaN # of lines: skipped, not broken
set encoding utf8
file = 'quality.tsv'

n = 0; from = 1e9; to = 0; low = 1e9; high = 0
stats file using (n = n + 1, b = column('bits_per_weight'), from = b < from ? b : from, \
    to = b > to ? b : to, k = column('kl'), low = k < low ? k : low, high = k > high ? k : high, 0) nooutput
low = 10 ** floor(log10(low / 1.2))
high = 10 ** (ceil(10 * log10(high * 1.3)) / 10.0)
from = floor(from - 0.5)
to = ceil(to + 0.2)
# Names stand in a column on the right, in the order of their KL, so that none covers another.
wide = to - from
at = to + 0.14 * wide
slot(s) = low * (high / low) ** ((s + 0.5) / n)
floor_(x) = x > low ? x : low
name(a, b) = b eq '-' ? a : a . ' ' . b

set terminal svg size 1000, 150 + (n > 20 ? 17 * n : 340) font 'sans-serif,12' background '#ffffff' noenhanced
set output 'quality.svg'
set title 'What size costs: KL of the predictions against the bits that a parameter takes' font ',15'
set xlabel 'bits per parameter, whole model' offset -24, 0
set ylabel 'KL(base || converted) per token, nats; mean and interval'
set logscale y
set xrange [from:to + 0.75 * wide]
set yrange [low:high]
set xtics nomirror from, (wide > 8 ? 2 : 1), to
set ytics nomirror format '%g'
set mytics 10
set grid xtics ytics lc rgb '#e4e4e4' lt 1
set border 3
set key bmargin left horizontal samplen 2
set bmargin 8
color(v) = v eq 'worse' ? 0xb3261e : v eq 'better' ? 0x1b6e45 : 0x5c6670
set style textbox opaque noborder

plot file using (column('bits_per_weight')):(column('kl')):(at - column('bits_per_weight')): \
        (slot(column('slot')) - column('kl')) with vectors nohead lw 0.6 lc rgb '#cfd6dc' notitle, \
    file using (column('front') > 0 ? column('bits_per_weight') : NaN):(column('kl')) \
        with steps lw 2 lc rgb '#0072b2' title 'nothing smaller is better', \
    file using (column('bits_per_weight')):(column('kl')):(floor_(column('kl_low'))):(column('kl_high')): \
        (color(strcol('verdict'))) with yerrorbars pt 0 lw 1 lc rgb variable notitle, \
    file using (column('bits_per_weight')):(column('kl')):(column('front') > 0 ? 1.1 : 0.7): \
        (color(strcol('verdict'))) with points pt 7 ps variable lc rgb variable notitle, \
    file using (at + 0.01 * wide):(slot(column('slot'))): \
        (sprintf('%s  %.3g', name(strcol('name'), strcol('params')), column('kl'))) with labels left \
        textcolor rgb '#1b1f23' notitle, \
    NaN with points pt 7 lc rgb 0xb3261e title 'ln ppl is worse', \
    NaN with points pt 7 lc rgb 0x1b6e45 title 'ln ppl is better', \
    NaN with points pt 7 lc rgb 0x5c6670 title 'the interval of ln ppl cannot tell'
