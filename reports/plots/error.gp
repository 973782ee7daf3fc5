# Rounding errors against the grid, one panel per scheme, from error.tsv: gnuplot error.gp
set datafile separator "\t"
set datafile columnheaders
set datafile commentschars ""
set encoding utf8
file = 'error.tsv'

panels = 0; high = 0
stats file using (panels = column('panel') > panels ? column('panel') : panels, \
    high = column('share_percent') > high ? column('share_percent') : high, 0) nooutput
panels = int(panels) + 1
wide = panels < 4 ? panels : 4
deep = (panels + wide - 1) / wide
array title[panels]
do for [p = 1:panels] { title[p] = '' }
stats file using (title[int(column('panel')) + 1] = strcol('scheme'), 0) nooutput

pitch = wide < 4 ? 760.0 / wide : 250.0 # the title is as wide as three panels
width = 60 + pitch * wide
height = 75 + 170.0 * deep
set terminal svg size width, height font 'sans-serif,12' background '#ffffff' noenhanced
set output 'error.svg'
set multiplot
set label 100 'Error of fake-quant in steps of the grid (shaded: half a step, all that rounding to nearest needs)' \
    at screen 0.5, screen 1 - 22 / height center font ',15'
set label 101 'error (x - y) / step' at screen 0.5, screen 16 / height center
set label 102 'elements per bin, %' at screen 14 / width, screen 0.5 center rotate by 90
set xrange [-1:1]
set yrange [0:high * 1.08]
set xtics -1, 0.5, 1 format '%g'
set ytics high > 40 ? 20 : high > 12 ? 5 : high > 5 ? 2 : 1 format '%g'
set grid ytics lc rgb '#dddddd' lt 1
set border 3
set tics nomirror
unset key
set style fill solid 1 noborder
set object 1 rectangle from first -0.5, graph 0 to first 0.5, graph 1 behind fc rgb '#eef2f5' fs solid noborder
do for [p = 0:panels - 1] {
    column_ = p % wide
    row_ = p / wide
    set lmargin at screen (60 + pitch * column_) / width
    set rmargin at screen (60 + pitch * (column_ + 1) - 35) / width
    set tmargin at screen 1 - (70 + 170.0 * row_) / height
    set bmargin at screen 1 - (70 + 170.0 * row_ + 110) / height
    set title title[p + 1] offset 0, -0.7
    plot file using (column('panel') == p ? (column('low_steps') + column('high_steps')) / 2 : NaN) \
        :(column('share_percent')):(column('high_steps') - column('low_steps')) with boxes lc rgb '#0072b2'
    unset label 100
    unset label 101
    unset label 102
}
unset multiplot
