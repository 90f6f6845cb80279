"""How the house draws: palette, lettering, charts, histograms, contact sheets. Knows nothing of what is drawn."""
