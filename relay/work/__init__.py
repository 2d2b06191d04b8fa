"""Acts: the loops that submit, deliver, ask and clean up."""
