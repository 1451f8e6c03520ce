"""Which number a record gets: plain, or so that the receiver drops nothing that was overtaken. No I/O and no clock."""
