"""`moedsl try`: train what specs describe, side by side on real text, and show what came of it."""
