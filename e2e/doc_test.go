// Package e2e_test proves what Keybridge promises with all of its processes, a
// real Envoy, a real S3 server and SDKs that know nothing of it. See world_test.go
// for what stands where.
package e2e_test
