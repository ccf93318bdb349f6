"""What is measured: the fusion core, engines, the live loop, precision, learning."""
