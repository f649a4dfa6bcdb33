"""What can be downloaded (one YAML for each data set), and the downloader that fetches, checks and unpacks it."""
