"""What the scripts share. Imports run downwards in this order.

command_line     parsing, exit codes, errors in one line
help             --help in groups
training         cross_validate with a bar and checkpoints; the runs of a checkpoint by name
tracking         what TensorBoard shows
plans            --recipe and --set: how a script trains
tasks            --data: what is learned, and its splits
parts            parts of results, each kept once it is whole
output           the output folder; what results.json begins with
resuming         the options of a run, for --resume
origin           when, where and by which revision results were made
startup          JAX and its devices, the processes of a job
tables           tables for the console and the report
progress         what goes on: a bar, or lines
console          consoles, signals, warnings in plain words
scores           how scores and counts are worded
options          options that scripts share, checks of arguments
"""
