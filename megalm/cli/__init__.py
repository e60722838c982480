"""The command line: one module for each verb; it reads the words, calls the library and prints."""
