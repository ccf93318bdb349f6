"""Other ways to serve the trained network, measured beside edgefuse."""
