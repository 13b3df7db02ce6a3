"""Tags of texts: labelled spans and tagged words, the forms in which data sets write them, and sequences of classes of words."""
