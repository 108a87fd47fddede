package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

// pick returns the one thing that goes by a name or id. A mistyped name is answered
// with the nearest one.
func pick[T any](kind, name string, all []T, names func(T) []string) (T, error) {
	var found []T
	nearest, distance := "", 3
	for _, t := range all {
		if slices.Contains(names(t), name) {
			found = append(found, t)
		}
		for _, n := range names(t) {
			if d := edits(strings.ToLower(name), strings.ToLower(n)); d < distance && n != "" {
				nearest, distance = n, d
			}
		}
	}
	var none T
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return none, &hinted{fmt.Errorf("%d %ss go by %q", len(found), kind, name), "use the id"}
	case nearest != "":
		return none, &hinted{fmt.Errorf("no %s %q", kind, name), fmt.Sprintf("did you mean %q?", nearest)}
	}
	return none, fmt.Errorf("no %s %q", kind, name)
}

// edits is the Levenshtein distance of two short strings.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// connector is either kind, as lists show them.
type connector struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Type      string `json:"type"`
	Workspace string `json:"workspace"` // name
	Bucket    string `json:"bucket,omitempty"`
	Region    string `json:"region,omitempty"`
	Endpoint  string `json:"endpoint"`
	Key       string `json:"key,omitempty"`
	// Status is ONLINE or OFFLINE as bridges find it, empty before any has.
	Status    string    `json:"status,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}

// connectors lists those of a workspace, or (empty) of all that the token sees;
// workspaces are their names by id.
func connectors(ctx context.Context, c *client.Client, workspace string, workspaces map[string]string) ([]connector, error) {
	buckets, err := c.Buckets(ctx, workspace)
	if err != nil {
		return nil, err
	}
	llms, err := c.LLMs(ctx, workspace)
	if err != nil {
		return nil, err
	}
	all := make([]connector, 0, len(buckets)+len(llms))
	for _, b := range buckets {
		all = append(all, connector{
			ID: b.ID, Name: b.Name, Type: b.StorageType, Workspace: workspaces[b.WorkspaceID], Bucket: b.Bucket, Region: b.Region,
			Endpoint: b.Endpoint, Key: b.Key, Status: b.Status, CreatedAt: b.CreatedAt,
		})
	}
	for _, l := range llms {
		all = append(all, connector{
			ID: l.ID, Name: l.Name, Type: l.AIType, Workspace: workspaces[l.WorkspaceID], Endpoint: l.Endpoint, Status: l.Status, CreatedAt: l.CreatedAt,
		})
	}
	return all, nil
}

func (c connector) storage() bool { return c.Type == "S3" }

// nodes is how each bridge last found it.
func (c connector) nodes(ctx context.Context, api *client.Client) ([]client.Node, error) {
	if c.storage() {
		return api.BucketStatus(ctx, c.ID)
	}
	return api.LLMStatus(ctx, c.ID)
}

func (t *tenant) connectors(ctx context.Context) ([]connector, error) {
	return connectors(ctx, t.Client, t.id, map[string]string{t.id: t.name})
}

func (t *tenant) connector(ctx context.Context, name string) (connector, error) {
	all, err := t.connectors(ctx)
	if err != nil {
		return connector{}, err
	}
	return pickConnector(name, all)
}

func pickConnector(name string, all []connector) (connector, error) {
	return pick("connector", name, all, func(c connector) []string { return []string{c.ID, c.Name} })
}

func (t *tenant) repo(ctx context.Context, name string) (client.Repo, error) {
	all, err := t.Repos(ctx, t.id)
	if err != nil {
		return client.Repo{}, err
	}
	return pick("repository", name, all, func(r client.Repo) []string { return []string{r.ID, r.Name} })
}

// completer lists what a shell can complete to; args are those before the cursor.
type completer func(ctx context.Context, c *client.Client, args []string) ([]string, error)

// complete has the shell complete a flag's value by asking the admin API.
func complete(cmd *cobra.Command, flag string, list completer, s scope) {
	if err := cmd.RegisterFlagCompletionFunc(flag, s.completion(list, -1)); err != nil {
		panic(err) // a flag that this very command did not define
	}
}

// oneOf has the shell complete a flag's value to one of a few.
func oneOf(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err)
	}
}

// completion answers a shell; at most n arguments, -1 for any number. A shell that
// cannot be answered gets nothing: an error would be written across its prompt.
func (s scope) completion(list completer, n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if n >= 0 && len(args) >= n {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		c, err := s.client(cmd)
		if err != nil {
			return nil, none
		}
		all, err := list(ctx, c, args)
		if err != nil {
			return nil, none
		}
		all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, prefix) })
		slices.Sort(all)
		return all, none
	}
}

func workspaceNames(ctx context.Context, c *client.Client) (names []string, err error) {
	all, err := c.Workspaces(ctx)
	for _, w := range all {
		names = append(names, w.Name)
	}
	return names, err
}

// workspaceID is the one that completions look in; empty for all.
func (s scope) workspaceID(ctx context.Context, c *client.Client) string {
	named := or(s.workspace, envWorkspace)
	if all, err := c.Workspaces(ctx); named != "" && err == nil {
		for _, w := range all {
			if w.ID == named || w.Name == named {
				return w.ID
			}
		}
	}
	return ""
}

func (s scope) connectorNames(ctx context.Context, c *client.Client, _ []string) (names []string, err error) {
	all, err := connectors(ctx, c, s.workspaceID(ctx, c), nil)
	for _, x := range all {
		names = append(names, x.Name)
	}
	return names, err
}

func (s scope) repoNames(ctx context.Context, c *client.Client, _ []string) (names []string, err error) {
	all, err := c.Repos(ctx, s.workspaceID(ctx, c))
	for _, r := range all {
		names = append(names, r.Name)
	}
	return names, err
}
