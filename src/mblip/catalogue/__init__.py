"""The catalogue of downloads (one YAML file per data set), and the downloader that fetches, checks and unpacks."""
