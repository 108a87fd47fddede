// Package envoy finds the Envoy binary that Keybridge is made for, writes its
// bootstrap, and runs it.
//
// The bootstrap holds nothing but where configuration comes from: delta ADS over
// a unix socket to the bridge that started it, and an admin interface on a unix
// socket in a directory that only its user may enter. There is no TCP admin
// port, and no secret in arguments, environment or bootstrap.
//
// A Process is one run. It dies with the process that started it, whatever way
// that one ends (PR_SET_PDEATHSIG, prctl(2)); restarting it is the caller's
// business. Logs are at level warning: Envoy's debug logs print headers, and
// with them credentials.
package envoy

// Version is the Envoy release that the configuration is written and tested for.
const Version = "1.40.0"
