package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"keybridge/cmd/devstack"
	"keybridge/envoy"
	"keybridge/extproc/bridge"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/lockedmem"
)

func devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine: 3 keepers, control plane, bridge, Envoy",
		Long: `Runs every process on loopback with its state below --state, and writes
endpoints.json there once all is ready. The first start makes identities, shares and
an admin token; later ones find them and collect the shares again. Logs are in
logs/. All keys lie on one disk: for trying, not for running.`,
		Example: "  keybridge dev --state .state --s3 127.0.0.1:9000 --ai 127.0.0.1:9001 --admin 127.0.0.1:9002",
		Args:    cobra.NoArgs,
	}
	f := cmd.Flags()
	var d dev
	f.StringVar(&d.state, "state", ".state", "state directory")
	f.StringVar(&d.s3, "s3", "127.0.0.1:9000", "address of the S3 listener")
	f.StringVar(&d.ai, "ai", "127.0.0.1:9001", "address of the AI listener")
	f.StringVar(&d.admin, "admin", "127.0.0.1:9002", "address of the admin API")
	f.StringVar(&d.health, "health", "", "address of the bridge's /live and /ready; default: a free port")
	f.StringVar(&d.envoy, "envoy", "", "Envoy binary; default $ENVOY, PATH, then the one \"make envoy\" installs")
	f.StringVar(&d.tls, "tls", "", "let both listeners speak TLS, with CERT.pem,KEY.pem")
	f.StringArrayVar(&d.domains, "s3-domain", nil, "base domain of virtual-host style S3 requests; repeat")
	f.StringArrayVar(&d.dns, "dns", nil, "DNS server for names of providers, IP or IP:PORT; default: the host's; repeat")
	f.StringSliceVar(&d.without, "without", nil, "processes not to start, e.g. keeper-2,keeper-3, to see what the others do")
	f.IntVar(&d.concurrency, "concurrency", 0, "Envoy's worker threads; 0: one per core")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d.out, d.logLevel = cmd.OutOrStdout(), cmd.Flag("log-level").Value.String()
		return d.run(cmd.Context())
	}
	return cmd
}

type dev struct {
	state, s3, ai, admin, health string
	envoy, logLevel              string
	tls                          string
	domains, dns                 []string
	without                      []string
	concurrency                  int
	out                          io.Writer
}

var devKeepers = []string{"keeper-1", "keeper-2", "keeper-3"}

const (
	devControl = "control"
	devBridge  = "bridge"
	devEnvoy   = "envoy"
)

// endpoints is endpoints.json.
type endpoints struct {
	S3             string `json:"s3"`
	AI             string `json:"ai"`
	Admin          string `json:"admin"`
	AdminTokenFile string `json:"adminTokenFile"`
	OperatorRoot   string `json:"operatorRoot"`
	Health         string `json:"health"`
}

func (d *dev) run(ctx context.Context) (err error) {
	for flag, addr := range map[string]string{"s3": d.s3, "ai": d.ai, "admin": d.admin} {
		if a, err := netip.ParseAddrPort(addr); err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
			return fmt.Errorf("--%s %s: `keybridge dev` listens on loopback addresses with a port only, e.g. 127.0.0.1:9000", flag, addr)
		}
	}
	if d.state, err = filepath.Abs(d.state); err != nil {
		return err
	}
	if d.envoy, err = envoy.Find(d.envoy); err != nil {
		return err
	}
	if err := os.MkdirAll(d.state, 0o700); err != nil {
		return err
	}
	unlock, err := lockState(d.state)
	if err != nil {
		return err
	}
	defer unlock()
	ready := d.path("endpoints.json")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := d.initialise(ctx); err != nil {
		return err
	}
	processes, err := d.processes()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	stack := devstack.Stack{Binary: self, Dir: d.state, Processes: processes, Log: slog.Default()}
	err = stack.Run(ctx, func() error {
		e := endpoints{
			S3: d.url(d.s3), AI: d.url(d.ai), Admin: "http://" + d.admin, Health: "http://" + d.health,
			AdminTokenFile: d.path("admin.token"), OperatorRoot: d.path("operator", rootPublicFile),
		}
		raw, err := json.MarshalIndent(e, "", "  ")
		if err != nil {
			return err
		}
		if err := devstack.WriteFile(ready, append(raw, '\n')); err != nil {
			return err
		}
		_, err = fmt.Fprintf(d.out, "ready\n  s3     %s\n  ai     %s\n  admin  %s   (token in %s)\nin another terminal: eval \"$(keybridge env --state %s)\"\n",
			e.S3, e.AI, e.Admin, e.AdminTokenFile, d.state)
		return err
	})
	return errors.Join(err, os.RemoveAll(ready))
}

// lockState makes this process the only `keybridge dev` of a state directory, by
// flock(2) on the directory itself: a second one would take endpoints.json and
// pids.json of the first away. The processes have locks of their own.
func lockState(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &hinted{fmt.Errorf("%s: another `keybridge dev` is running with this state", dir), "stop it, or choose another --state"}
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { _ = d.Close() }, nil // closing releases the lock
}

// url is where a listener is reached.
func (d *dev) url(addr string) string {
	if d.tls != "" {
		return "https://" + addr
	}
	return "http://" + addr
}

func (d *dev) path(elem ...string) string {
	return filepath.Join(append([]string{d.state}, elem...)...)
}

// initialise is everything that an operator does before the first start, done
// once. What an interrupted one left is marked as such, and only that is removed.
func (d *dev) initialise(ctx context.Context) error {
	unfinished := d.path("initialising")
	if _, err := os.Stat(unfinished); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(d.path(devControl)); err == nil {
			return nil
		}
	}
	if err := harden(true); err != nil {
		return err
	}
	defer lockedmem.Purge()
	if err := devstack.WriteFile(unfinished, nil); err != nil {
		return err
	}
	for _, part := range append([]string{devControl, devBridge, "operator"}, devKeepers...) {
		if err := os.RemoveAll(d.path(part)); err != nil {
			return err
		}
	}
	cfg := ceremony.InitConfig{Threshold: 2}
	locks := map[string]keeper.Lock{}
	for _, name := range devKeepers {
		lock, err := newKeyFile(d.path(name + ".key"))
		if err != nil {
			return err
		}
		locks[name] = lock
		e, err := enrol(identity.RoleKeeper, name, d.path(name), lock)
		if err != nil {
			return err
		}
		addEnrolment(&cfg, e)
	}
	for _, role := range []identity.Role{identity.RoleControl, identity.RoleBridge} {
		e, err := enrol(role, string(role), d.path(string(role)), keeper.Lock{})
		if err != nil {
			return err
		}
		addEnrolment(&cfg, e)
	}
	rootLock, err := newKeyFile(d.path("operator.key"))
	if err != nil {
		return err
	}
	token, err := initialise(ctx, cfg, rootLock, d.path("operator"), d.path(devControl, "keybridge.db"))
	if err != nil {
		return err
	}
	if err := identity.WritePrivate(d.path("admin.token"), []byte(token+"\n")); err != nil {
		return err
	}
	if err := d.deliver(locks); err != nil {
		return err
	}
	return os.Remove(unfinished)
}

// newKeyFile makes a key file in place of one that an interrupted first start left.
func newKeyFile(path string) (keeper.Lock, error) {
	if err := os.RemoveAll(path); err != nil {
		return keeper.Lock{}, err
	}
	if err := keeper.CreateKeyFile(path); err != nil {
		return keeper.Lock{}, err
	}
	return keeper.KeyFileLock(path)
}

func (d *dev) deliver(locks map[string]keeper.Lock) error {
	root, err := readRoot(d.path("operator", rootPublicFile))
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(d.path("operator", manifestFile))
	if err != nil {
		return err
	}
	for _, name := range devKeepers {
		delivery, err := os.ReadFile(d.path("operator", deliveryFile(name)))
		if err != nil {
			return err
		}
		if err := keeper.Accept(d.path(name), locks[name], root, manifest, delivery); err != nil {
			return err
		}
	}
	return nil
}

// processes are the stack's, in the order of starting.
func (d *dev) processes() ([]devstack.Process, error) {
	ports, err := d.freeAddresses(len(devKeepers) + 2)
	if err != nil {
		return nil, err
	}
	if d.health == "" {
		d.health = ports[len(devKeepers)+1]
	}
	root, manifest := d.path("operator", rootPublicFile), d.path("operator", manifestFile)
	// Providers on this machine, and without TLS: in dev only.
	allow := []string{"--allow-endpoint", "http://127.0.0.0/8", "--allow-endpoint", "http://localhost", "--allow-endpoint", "http://::1"}

	var all []devstack.Process
	bridges := ports[len(devKeepers)]
	bridgeArgs := []string{
		"bridge", "--dir", d.path(devBridge), "--operator-root", root, "--manifest", manifest,
		"--control", bridges, "--health", d.health, "--region", "local", "--url", d.url(d.s3), "--url", d.url(d.ai),
	}
	secure := "" // of a listener
	if d.tls != "" {
		bridgeArgs = append(bridgeArgs, "--tls", "dev="+d.tls)
		secure = ",tls=dev"
	}
	for _, domain := range d.domains {
		bridgeArgs = append(bridgeArgs, "--s3-domain", domain)
	}
	for _, server := range d.dns {
		bridgeArgs = append(bridgeArgs, "--dns", server)
	}
	for i, name := range devKeepers {
		all = append(all, devstack.Process{
			Name:  name,
			Args:  []string{"keeper", "run", "--dir", d.path(name), "--operator-root", root, "--listen", ports[i], "--key-file", d.path(name + ".key")},
			Up:    devstack.Listening(ports[i]),
			Grace: 5 * time.Second,
		})
		bridgeArgs = append(bridgeArgs, "--keeper", name+"="+ports[i])
	}
	all = append(all,
		devstack.Process{
			Name: devControl,
			Args: append([]string{
				"control", "--dir", d.path(devControl), "--operator-root", root, "--store", d.path(devControl, "keybridge.db"),
				"--admin", d.admin, "--bridges", bridges, "--listener", "s3=" + d.s3 + secure, "--listener", "ai=" + d.ai + secure,
			}, allow...),
			Up:    devstack.Answers("http://" + d.admin + "/health"),
			Grace: 10 * time.Second,
		},
		devstack.Process{
			Name:  devBridge,
			Args:  append(bridgeArgs, allow...),
			Up:    devstack.Answers("http://" + d.health + "/live"),
			Grace: 10 * time.Second,
		},
		devstack.Process{
			Name: devEnvoy,
			Args: []string{
				"envoy", "--dir", d.path(devEnvoy), "--bridge", bridge.ADSSocket(d.path(devBridge)), "--envoy", d.envoy,
				"--concurrency", fmt.Sprint(d.concurrency),
			},
			Up: func(ctx context.Context) error {
				for _, up := range []func(context.Context) error{
					devstack.Answers("http://" + d.health + "/ready"), devstack.Listening(d.s3), devstack.Listening(d.ai),
				} {
					if err := up(ctx); err != nil {
						return err
					}
				}
				return nil
			},
			Grace: 20 * time.Second,
		})
	for _, name := range d.without {
		if !slices.ContainsFunc(all, func(p devstack.Process) bool { return p.Name == name }) {
			return nil, fmt.Errorf("--without %s: there is no such process", name)
		}
	}
	for i := range all {
		all[i].Args = append(all[i].Args, "--log-level", d.logLevel)
	}
	return slices.DeleteFunc(all, func(p devstack.Process) bool { return slices.Contains(d.without, p.Name) }), nil
}

// freeAddresses finds n loopback addresses that nothing listens on, once those that
// the flags say turn out to be free. That is looked at here because Envoy would share
// an address with another Envoy (SO_REUSEPORT), and another's health would be taken
// for this one's.
func (d *dev) freeAddresses(n int) ([]string, error) {
	// All are held until all are found, so that they differ.
	for _, a := range []struct{ flag, addr string }{{"s3", d.s3}, {"ai", d.ai}, {"admin", d.admin}, {"health", d.health}} {
		if a.addr == "" {
			continue
		}
		lis, err := net.Listen("tcp", a.addr)
		if err != nil {
			return nil, &hinted{fmt.Errorf("--%s %s: %w", a.flag, a.addr, err), "stop what is there, or choose another address with --" + a.flag}
		}
		defer lis.Close()
	}
	out := make([]string, n)
	for i := range out {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer lis.Close()
		out[i] = lis.Addr().String()
	}
	return out, nil
}
