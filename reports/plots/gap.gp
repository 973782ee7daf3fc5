# Prepare against convert by scheme, every seed a point, from gap.tsv: gnuplot gap.gp
set datafile separator "\t"
set datafile columnheaders
set datafile commentschars ""
set encoding utf8
file = 'gap.tsv'

columns = 0; low = 1e9; high = -1e9; sources = ''; equal = 0
see(s) = s eq 'inf' ? (equal = 1) : s eq 'nan' || s eq '-inf' ? 0 : \
    (v = real(s), low = v < low ? v : low, high = v > high ? v : high)
name(a, b) = a ne 'torch-model' ? a . ', ' . b : b eq 'model' ? 'outputs of the model' : b
stats file using (columns = column('column') > columns ? column('column') : columns, \
    see(strcol('sqnr_db')), n = name(strcol('source'), strcol('what')), \
    sources = strstrt(sources, "\n" . n . "\n") ? sources : (sources eq '' ? "\n" : sources) . n . "\n", 0) nooutput
if (low > high) { low = 0; high = 40 }
step = high - low > 60 ? 20 : high - low > 15 ? 10 : 5
low = step * floor((low - 2) / step)
high = step * ceil(high / step)
top = high + step
y(s) = s eq 'inf' ? top : s eq '-inf' || s eq 'nan' ? NaN : real(s)

# The k-th name of the list, and how many there are.
cut(s) = substr(s, 1, strstrt(s, "\n") - 1)
rest(s) = substr(s, strstrt(s, "\n") + 1, strlen(s))
nth(s, k) = k == 0 ? cut(s) : nth(rest(s), k - 1)
count(s) = strlen(s) == 0 ? 0 : 1 + count(rest(s))
sources = substr(sources, 2, strlen(sources))
kinds = count(sources)
shown = kinds > 6 ? 6 : kinds

array color[6] = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#000000']
array shape[6] = [7, 9, 5, 11, 13, 6]
# A line per scheme, the first on top; points of one source lie above those of the next, spread a
# little by seed so that equal ones can be counted.
line(c, k, seed) = -c - (k - (shown - 1) / 2.0) * 0.7 / shown - ((int(seed) * 7) % 11 - 5) * 0.04 / shown
label(scheme, params) = params eq '-' ? scheme : scheme . ' ' . params

set terminal svg size 900, 130 + 22 * (columns + 1) + 18 * shown font 'sans-serif,13' \
    background '#ffffff' noenhanced
set output 'gap.svg'
set title 'Prepare against convert: SQNR in dB (higher is closer, right: equal in every bit)' \
    . (shown < kinds ? sprintf("\n(the first %d of %d sources)", shown, kinds) : '')
set xlabel 'SQNR, dB'
set yrange [-columns - 0.6:0.6]
set xrange [low:top + 0.4 * step]
set xtics nomirror low, step, high
set xtics add ('equal' top)
set ytics scale 0
set grid xtics lc rgb '#dddddd' lt 1
set key tmargin center horizontal samplen 1
set border 1
set object 1 rectangle from first top - 0.3 * step, graph 0 to first top + 0.3 * step, graph 1 behind \
    fc rgb '#e6f4ec' fs solid noborder
plot for [k = 0:shown - 1] file \
    using (y(strcol('sqnr_db'))):(name(strcol('source'), strcol('what')) eq nth(sources, k) ? \
        line(column('column'), k, column('seed')) : NaN) \
    with points pt shape[k + 1] ps 0.6 lc rgb color[k + 1] title nth(sources, k), \
    file using (low - 100):(-column('column')):ytic(label(strcol('scheme'), strcol('params'))) with points notitle
