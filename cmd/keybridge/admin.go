package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/store/api/client"
)

// Where admin commands find the API when flags do not say. The token itself is
// only ever in a file: arguments and environment are readable by others.
const (
	envAdmin     = "KEYBRIDGE_ADMIN"
	envTokenFile = "KEYBRIDGE_TOKEN_FILE"
	envRoot      = "KEYBRIDGE_OPERATOR_ROOT"
	envWorkspace = "KEYBRIDGE_WORKSPACE"
)

// adminFlags are those of every command that talks to the admin API.
type adminFlags struct {
	url, tokenFile, root *string
	json                 *bool
}

func addAdminFlags(cmd *cobra.Command) adminFlags {
	f := cmd.PersistentFlags()
	return adminFlags{
		f.String("admin", "", "URL of the admin API (default $"+envAdmin+")"),
		f.String("token-file", "", "file with the admin token (default $"+envTokenFile+")"),
		f.String("operator-root", "", "public half of the operator root, which vouches for the sealing key (default $"+envRoot+")"),
		f.Bool("json", false, "print JSON"),
	}
}

// or returns a flag's value, or what the environment has for it.
func or(flag *string, env string) string {
	if *flag != "" {
		return *flag
	}
	return os.Getenv(env)
}

// address is the URL of the admin API.
func (f adminFlags) address() (string, error) {
	url := or(f.url, envAdmin)
	if url == "" {
		return "", &hinted{
			fmt.Errorf("no admin API: $%s is not set", envAdmin),
			`set it, or give --admin URL; beside a running "keybridge dev": eval "$(keybridge env)"`,
		}
	}
	return url, nil
}

func (f adminFlags) client(cmd *cobra.Command) (*client.Client, error) {
	return f.connect(cmd, func(manifest []byte, keyID string) error {
		_, err := f.vouched(manifest, keyID)
		return err
	})
}

func (f adminFlags) connect(cmd *cobra.Command, verify func(manifest []byte, keyID string) error) (*client.Client, error) {
	url, err := f.address()
	if err != nil {
		return nil, err
	}
	file := or(f.tokenFile, envTokenFile)
	if file == "" {
		return nil, &hinted{
			fmt.Errorf("no admin token: $%s is not set", envTokenFile),
			`set it to the file that has the token, or give --token-file FILE; beside a running "keybridge dev": eval "$(keybridge env)"`,
		}
	}
	token, err := readSecret(cmd, file)
	if err != nil {
		return nil, fmt.Errorf("admin token: %w", err)
	}
	return client.New(url, string(token), client.Options{
		HTTP: &http.Client{Timeout: time.Minute}, VerifySealingKey: verify,
	})
}

// vouched holds the sealing key against the pinned operator root: a secret is never
// sealed to a key that only the control plane vouches for.
func (f adminFlags) vouched(manifest []byte, keyID string) (*keyshare.Manifest, error) {
	file := or(f.root, envRoot)
	if file == "" {
		return nil, &hinted{
			fmt.Errorf("no operator root to check it against: $%s is not set", envRoot),
			"set it to the file root.pub that `keybridge init` made, or give --operator-root FILE",
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	root, err := identity.ParseRoot(raw)
	if err != nil {
		return nil, err
	}
	m, err := keyshare.Verify(root, manifest)
	if err != nil {
		return nil, fmt.Errorf("the control plane's manifest: %w", err)
	}
	if m.CurrentSealingKey().ID != keyID {
		return nil, fmt.Errorf("sealing key %s is not the manifest's current one", keyID)
	}
	return m, nil
}

// scope is where a command works: the admin API, and --workspace.
type scope struct {
	adminFlags
	workspace *string
}

func addScopeFlags(cmd *cobra.Command) scope {
	s := scope{
		addAdminFlags(cmd),
		cmd.PersistentFlags().String("workspace", "", "workspace, by name or id (default $"+envWorkspace+", else the only one)"),
	}
	complete(cmd, "workspace", func(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
		return workspaceNames(ctx, c)
	}, s)
	return s
}

// tenant is one workspace, and the right to do something in it.
type tenant struct {
	*client.Client
	id, name string
}

// in returns the workspace that --workspace names, or the only one there is.
func (s scope) in(cmd *cobra.Command) (*tenant, error) {
	c, err := s.client(cmd)
	if err != nil {
		return nil, err
	}
	all, err := c.Workspaces(cmd.Context())
	if err != nil {
		return nil, err
	}
	named := or(s.workspace, envWorkspace)
	if named == "" && len(all) == 1 {
		return &tenant{c, all[0].ID, all[0].Name}, nil
	}
	if named == "" {
		if len(all) == 0 {
			return nil, &hinted{fmt.Errorf("there is no workspace yet"), "make one: keybridge workspace create NAME"}
		}
		return nil, &hinted{fmt.Errorf("there are %d workspaces: name one with --workspace or $%s", len(all), envWorkspace), "keybridge workspace list"}
	}
	w, err := pick("workspace", named, all, func(w client.Workspace) []string { return []string{w.ID, w.Name} })
	if err != nil {
		return nil, err
	}
	return &tenant{c, w.ID, w.Name}, nil
}

// seen is what a list shows: one workspace if named, else all that the token sees.
func (s scope) seen(cmd *cobra.Command) (c *client.Client, workspace string, names map[string]string, err error) {
	if c, err = s.client(cmd); err != nil {
		return nil, "", nil, err
	}
	all, err := c.Workspaces(cmd.Context())
	if err != nil {
		return nil, "", nil, err
	}
	names = map[string]string{}
	for _, w := range all {
		names[w.ID] = w.Name
	}
	if named := or(s.workspace, envWorkspace); named != "" {
		w, err := pick("workspace", named, all, func(w client.Workspace) []string { return []string{w.ID, w.Name} })
		if err != nil {
			return nil, "", nil, err
		}
		workspace = w.ID
	}
	return c, workspace, names, nil
}
