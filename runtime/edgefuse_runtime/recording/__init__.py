"""Recording labelled sequences to a data set, and RealSense recordings (.db3)."""
