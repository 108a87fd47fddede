package provider

// Server is a running S3 server and its root credential.
type Server struct{ URL, Access, Secret string }
