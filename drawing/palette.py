"""The colours that our pictures share: a warm neutral paper, on which paintings keep their own colours."""

PAPER = "#f5f4f1"
INK = "#262422"
QUIET = "#837d74"  # notes, axes: read second
HAIRLINE = "#dedad2"
ABSENT = "#eceae5"  # the ground of a picture that is not there
HATCHING = "#d9d5cc"
THIN = "#cfc8bc"  # single measurements behind their trend
BLUE = "#2f5d7c"  # what was measured
RUST = "#c2562d"  # what stands against it: held out, refused, beyond a limit
