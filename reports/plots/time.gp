# Time and bandwidth with 95 % intervals, from time.tsv: gnuplot time.gp
set datafile separator "\t"
set datafile columnheaders
set datafile commentschars ""
set encoding utf8
file = 'time.tsv'

rows = 0; longest = 0; backends = ' '; last = ''; borders = ''
label(op, scheme) = scheme . '  ' . op
stats file using (rows = column('row') > rows ? column('row') : rows, \
    longest = strlen(label(strcol('op'), strcol('scheme'))) > longest ? \
        strlen(label(strcol('op'), strcol('scheme'))) : longest, \
    backends = strstrt(backends, ' ' . strcol('backend') . ' ') ? backends : backends . strcol('backend') . ' ', \
    borders = strcol('op') eq last || last eq '' ? borders : borders . sprintf(' %d', column('row')), \
    last = strcol('op'), 0) nooutput
count = words(backends)
shown = count > 6 ? 6 : count
array color[6] = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#000000']
array shape[6] = [7, 9, 5, 11, 13, 6]
y(row, k) = row + (k - (shown + 1) / 2.0) * 0.3

text = 7.2 * longest + 20
width = text + 2 * 360.0 + 100
height = 19.0 * (rows + 1) + 130
set terminal svg size width, height font 'sans-serif,12' background '#ffffff' noenhanced
set output 'time.svg'
set multiplot
set yrange [rows + 0.7:-0.7]
set logscale x
set grid xtics lc rgb '#dddddd' lt 1
set border 1
do for [row in borders] {
    set arrow from graph 0, first real(row) - 0.5 to graph 1, first real(row) - 0.5 nohead lc rgb '#999999' lw 1
}
set tics nomirror
set ytics scale 0
set tmargin at screen 1 - 62 / height
set bmargin at screen 46 / height
set bars 0.6
set key at screen 0.5, screen 1 - 12 / height center top horizontal samplen 1

set lmargin at screen text / width
set rmargin at screen (text + 340) / width
set title 'time of one call (less is better)' \
    . (shown < count ? sprintf(', the first %d of %d backends', shown, count) : '') offset 0, -0.5
set format x '%.0s %cs'
plot for [k = 1:shown] file using (strcol('backend') eq word(backends, k) ? column('median_s') : NaN) \
        :(y(column('row'), k)):(column('low_s')):(column('high_s')) \
        with xerrorbars pt shape[k] ps 0.6 lw 1.5 lc rgb color[k] title word(backends, k), \
    file using (column('median_s')):(column('row')):ytic(label(strcol('op'), strcol('scheme'))) \
        with points pt -1 notitle

unset key
set lmargin at screen (text + 415) / width
set rmargin at screen (text + 755) / width
set title 'bandwidth (more is better)'
set format x '%.0s %cB/s'
set ytics format ''
plot for [k = 1:shown] file using (strcol('backend') eq word(backends, k) ? column('bytes_per_s') : NaN) \
        :(y(column('row'), k)):(column('low_bytes_per_s')):(column('high_bytes_per_s')) \
        with xerrorbars pt shape[k] ps 0.6 lw 1.5 lc rgb color[k] notitle
unset multiplot
