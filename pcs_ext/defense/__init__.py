"""Protection of photos against personalization, censorship of misuse, and audits of files."""
