"""Why training stalls: spectra, dynamics, conflict, noise, errors, landscape, precision, and advice."""
