"""What every part needs: settings, errors, logging, progress, atomic files."""
