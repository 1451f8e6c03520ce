"""Why nothing changes: looks at this machine and its kernel, by trying, and says what to mend."""
