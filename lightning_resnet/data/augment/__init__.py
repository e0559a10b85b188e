"""Random choices about an image: crops, flips, policies; pure functions of the draws."""
