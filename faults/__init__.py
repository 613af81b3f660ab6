"""Try to break runs: processes are killed, files are damaged, disks fill up. `python -m faults` (`make faults`) plays it all."""
