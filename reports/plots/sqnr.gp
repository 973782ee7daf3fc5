# SQNR by scheme and kind of data, from sqnr.tsv: gnuplot sqnr.gp
set datafile separator "\t"
set datafile columnheaders
set datafile commentschars ""
set encoding utf8
file = 'sqnr.tsv'

db(s) = s eq 'inf' || s eq '-inf' || s eq 'nan' ? NaN : real(s)
text(s) = s eq 'nan' ? '–' : s eq 'inf' || s eq '-inf' ? s : sprintf('%.1f', real(s))

rows = 0; columns = 0; longest = 0; widest = 0; low = 1e9; high = -1e9
see(s) = (v = db(s), v == v ? (low = v < low ? v : low, high = v > high ? v : high) : 0)
stats file using (rows = column('row') > rows ? column('row') : rows, \
    columns = column('column') > columns ? column('column') : columns, \
    longest = strlen(strcol('scheme')) > longest ? strlen(strcol('scheme')) : longest, \
    widest = strlen(strcol('data')) > widest ? strlen(strcol('data')) : widest, \
    see(strcol('sqnr_db')), 0) nooutput
if (low > high) { low = 0; high = 1 }
if (low == high) { high = low + 1 }

margin = 8 * longest + 40
cell = 8 * widest + 12 > 72 ? 8 * widest + 12 : 72
width = margin + cell * (columns + 1.0) + 110
if (width < 760) { width = 760.0 } # the title
set terminal svg size width, 26 * (rows + 1) + 120 \
    font 'sans-serif,13' background '#ffffff' noenhanced
set output 'sqnr.svg'
set title 'SQNR of fake-quant against the unquantized tensor, dB (more is better)'
set xrange [-0.5:columns + 0.5]
set yrange [rows + 0.5:-0.5]
set cbrange [low:high]
set palette defined (0 '#fdf3e3', 0.5 '#b5d3e7', 1 '#5a9fcb')
set cblabel 'dB'
if (rows < 4) { set cbtics (sprintf('%.1f', low) low, sprintf('%.1f', high) high) scale 0 }
set colorbox user origin screen 1 - 90.0 / width, graph 0.05 size screen 18.0 / width, graph 0.9
set xtics scale 0 rotate by 0
set ytics scale 0
unset key
set border 0
set lmargin at screen margin / width
set rmargin at screen 1 - 110 / width
set style fill solid noborder
plot file using (column('column')):(column('row')):(column('column') - 0.48):(column('column') + 0.48) \
        :(column('row') - 0.46):(column('row') + 0.46):(db(strcol('sqnr_db'))) with boxxyerror lc palette, \
    file using (strcol('sqnr_db') eq 'inf' ? column('column') : NaN):(column('row')) \
        :(column('column') - 0.48):(column('column') + 0.48):(column('row') - 0.46):(column('row') + 0.46) \
        with boxxyerror lc rgb '#bfe3d0', \
    file using (column('column')):(column('row')):(text(strcol('sqnr_db'))) \
        :xtic(strcol('data')):ytic(strcol('scheme')) with labels font ',12'
