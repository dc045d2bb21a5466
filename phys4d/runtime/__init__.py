"""What every program needs: configuration, run folders, atomic files, progress, seeds, threads."""
