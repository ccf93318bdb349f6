"""What commands share: options, progress bars, checks of their values."""
