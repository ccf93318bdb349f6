"""Reads the energy that a machine uses: Jetson rails (INA3221), NVIDIA's energy counter (NVML), x86 processors (RAPL)."""
