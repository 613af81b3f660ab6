"""What a run will cost: FLOPs, memory, disk and time, before anything expensive starts."""
