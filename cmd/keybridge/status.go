package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/keyshare"
	"keybridge/store/api/client"
)

// Exit statuses of `keybridge status`, for scripts and monitoring.
const (
	statusProblems = 1
	statusUnknown  = 2
)

// shownProblems leave room on one screen for the rest.
const shownProblems = 12

// expiringSoon is how long before a key's end `keybridge status` begins to say so.
const expiringSoon = 14 * 24 * time.Hour

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show on one screen how everything is, problems first",
		Long: `Shows what is wrong and what to do about it, then what there is: the control plane,
bridges, connectors as bridges find them at their providers, configuration that is not
acknowledged, keys that are about to expire.

The exit status is 0 if all is well, 1 if there are problems, 2 if that cannot be told.`,
		Example: `  keybridge status
  keybridge status --json | jq -r '.problems[].what'
  keybridge status > /dev/null || alert "Keybridge: $?"`,
		Args: cobra.NoArgs,
	}
	s := addScopeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p := s.picture(cmd)
		if *s.json {
			if err := writeJSON(cmd.OutOrStdout(), p); err != nil {
				return err
			}
		} else if err := p.draw(cmd.OutOrStdout()); err != nil {
			return err
		}
		switch p.Status {
		case "unknown":
			return exitStatus(statusUnknown)
		case "problems":
			return exitStatus(statusProblems)
		}
		return nil
	}
	return cmd
}

// picture is what `keybridge status` shows.
type picture struct {
	Status   string    `json:"status"` // ok, problems or unknown
	Problems []problem `json:"problems"`
	Lines    []line    `json:"parts"`
	keepers  int       // that bridges found wrong
	serving  []string  // bridges
}

// problem is something wrong, and what to do about it.
type problem struct {
	What string `json:"what"`
	Do   string `json:"do,omitempty"`
}

// line is one part of Keybridge in a few words.
type line struct {
	Part string `json:"part"`
	Is   string `json:"is"`
}

func (p *picture) problem(do, format string, args ...any) {
	p.Problems = append(p.Problems, problem{fmt.Sprintf(format, args...), do})
}

func (p *picture) line(part, format string, args ...any) {
	p.Lines = append(p.Lines, line{part, fmt.Sprintf(format, args...)})
}

// picture asks the control plane for everything; what it cannot ask is a problem, too.
func (s scope) picture(cmd *cobra.Command) *picture {
	ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
	defer cancel()
	cmd.SetContext(ctx)
	p := &picture{Status: "unknown", Problems: []problem{}, Lines: []line{}}
	begin := time.Now()
	c, workspace, names, err := s.seen(cmd)
	if err != nil {
		what, do := explain(err)
		p.problem(do, "%s", what)
		return p
	}
	p.line("control plane", "answers in %s", time.Since(begin).Round(time.Millisecond))
	custody := func(context.Context, *client.Client, string, map[string]string) error {
		return p.custody(cmd, s.adminFlags)
	}
	for _, part := range []func(context.Context, *client.Client, string, map[string]string) error{
		p.bridges, custody, p.connectors, p.repositories, p.sync, p.tokens,
	} {
		if err := part(ctx, c, workspace, names); err != nil {
			what, do := explain(err)
			p.problem(do, "%s", what)
			return p
		}
	}
	if p.Status = "ok"; len(p.Problems) > 0 {
		p.Status = "problems"
	}
	return p
}

// bridges looks at the bridges themselves, and at the keepers as those found them.
// Those that serve are kept for sync.
func (p *picture) bridges(ctx context.Context, c *client.Client, _ string, _ map[string]string) error {
	all, err := c.Nodes(ctx, 0)
	if err != nil {
		return err
	}
	var offline, away int
	for _, n := range all {
		switch n.Status {
		case "ONLINE":
			p.serving = append(p.serving, n.Name)
		case "OFFLINE":
			offline++
			p.problem("its log and its /ready say more; enough keepers must run", "bridge %s is not serving: %s", n.Name, cmp.Or(n.Reason, "it is not in sync"))
		default:
			away++
			p.problem("is it running, and does it reach the control plane's --bridges? It serves what it had, for --max-stale",
				"bridge %s is not connected, last heard %s", n.Name, ago(n.LastUpdated))
		}
		for _, problem := range n.Problems {
			p.problem("", "bridge %s leaves out: %s", n.Name, problem)
		}
	}
	if len(all) == 0 {
		p.problem("start one: keybridge bridge --help", "no bridge is connected: nothing is served")
	}
	p.line("bridges", "%s", counted(len(all), count{offline, "not serving"}, count{away, "not connected"}))
	p.keepersSeen(all)
	return nil
}

// keepersSeen are the keepers as each bridge found them at its last look, half a minute ago at most;
// one that any bridge found wrong is a problem, even if that bridge had enough others.
func (p *picture) keepersSeen(bridges []client.Node) {
	wrong := map[string]string{}
	for _, n := range bridges {
		for _, k := range n.Keepers {
			if k.State != "good" {
				wrong[k.Name] = fmt.Sprintf("keeper %s: %s, as bridge %s found it: %s", k.Name, k.State, n.Name, cmp.Or(k.Detail, k.State))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		p.problem("a bridge starts as long as enough others are good", "%s", wrong[name])
	}
	p.keepers = len(wrong)
}

// custody holds what the control plane says it seals to against the operator root.
func (p *picture) custody(cmd *cobra.Command, f adminFlags) error {
	if or(f.root, envRoot) == "" {
		p.line("keepers", "$%s is not set: cannot tell who is enrolled", envRoot)
		return nil
	}
	var m *keyshare.Manifest
	var refused error
	c, err := f.connect(cmd, func(manifest []byte, keyID string) error {
		m, refused = f.vouched(manifest, keyID)
		return refused
	})
	if err != nil {
		return err
	}
	if _, err := c.SealingKey(cmd.Context()); refused != nil {
		p.problem("do not make connectors or keys before this is explained", "the operator root does not vouch for the sealing key: %v", refused)
		return nil
	} else if err != nil {
		return err
	}
	p.line("keepers", "%s", counted(len(m.Keepers), count{m.Threshold, "needed to start a bridge"}, count{p.keepers, "not good at the last look"}))
	return nil
}

// sync looks for configuration that was refused, and for bridges without an
// Envoy: those are ready, but nobody reaches them. A token of some workspaces only may not ask.
func (p *picture) sync(ctx context.Context, c *client.Client, _ string, _ map[string]string) error {
	synced, err := c.Sync(ctx)
	if forbidden(err) {
		p.line("sync", "needs a token of all workspaces")
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range synced.Expiring {
		p.problem("sign a manifest that lists it for longer; after that time its peers refuse it",
			"the enrolment of %s %s ends at %s", e.Role, e.Name, e.NotAfter.Format(time.RFC3339))
	}
	all := synced.Data
	refused, waiting, away := 0, 0, 0
	envoys := map[string]bool{} // bridges that have one
	for _, s := range all {
		if s.Node != s.Bridge && s.Connected {
			envoys[s.Bridge] = true
		}
		switch syncState(s) {
		case "refused":
			refused++
			p.problem("the connectors it is about keep their last good state; keybridge sync shows all", "%s refuses %s: %s", s.Node, kind(s.Type), s.Nack)
		case "waiting":
			waiting++
		case "away":
			away++
		}
	}
	for _, bridge := range p.serving {
		if !envoys[bridge] {
			p.problem("nothing listens without it: start keybridge envoy beside the bridge; its log says why it ended",
				"the Envoy of bridge %s is not connected", bridge)
		}
	}
	is := "all acknowledged"
	if refused+waiting+away > 0 || len(all) == 0 {
		is = counted(len(all), count{refused, "refused"}, count{waiting, "waiting"}, count{away, "away"})
	}
	p.line("sync", "%s", is)
	return nil
}

// connectors looks at how bridges found each connector at its provider.
func (p *picture) connectors(ctx context.Context, c *client.Client, workspace string, names map[string]string) error {
	all, err := connectors(ctx, c, workspace, names)
	if err != nil {
		return err
	}
	refused, untried := 0, 0
	for _, x := range all {
		switch x.Status {
		case "ONLINE":
			continue
		case "OFFLINE":
			refused++
		default: // before any bridge has said anything, or when those that did are gone
			untried++
			continue
		}
		do := fmt.Sprintf("keybridge connector validate %s --workspace %s", x.Name, x.Workspace)
		nodes, err := x.nodes(ctx, c)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Status == "OFFLINE" {
				p.problem(do, "connector %s (%s) does not work at bridge %s: %s", x.Name, x.Workspace, n.Name, cmp.Or(n.Message, n.Status))
			}
		}
	}
	p.line("connectors", "%s", counted(len(all), count{refused, "not working"}, count{untried, "of which no bridge says anything"}))
	return nil
}

// tokens looks for admin tokens that end soon; not every token may ask.
func (p *picture) tokens(ctx context.Context, c *client.Client, _ string, _ map[string]string) error {
	all, err := c.Tokens(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, t := range all {
		if t.ExpiresAt != nil && t.ExpiresAt.After(now) && t.ExpiresAt.Sub(now) < expiringSoon {
			p.problem("make another: keybridge token create --help", "admin token %s expires in %s", t.Name, span(t.ExpiresAt.Sub(now)))
		}
	}
	return nil
}

// repositories looks at repositories and their keys.
func (p *picture) repositories(ctx context.Context, c *client.Client, workspace string, names map[string]string) error {
	all, err := c.Repos(ctx, workspace)
	if err != nil {
		return err
	}
	now := time.Now()
	disabled, keys, expired := 0, 0, 0
	for _, r := range all {
		if r.Disabled {
			disabled++
		}
		for _, k := range keysOf(r) {
			keys++
			switch {
			case k.ExpiresAt == nil || r.Disabled:
			case !k.ExpiresAt.After(now):
				expired++
			case k.ExpiresAt.Sub(now) < expiringSoon:
				p.problem(fmt.Sprintf("keybridge key rotate %s --workspace %s --repo %s --overlap 24h", k.Name, names[r.WorkspaceID], r.Name),
					"key %s of repository %s (%s) expires in %s", k.Name, r.Name, names[r.WorkspaceID], span(k.ExpiresAt.Sub(now)))
			}
		}
	}
	p.line("repositories", "%s", counted(len(all), count{disabled, "disabled"}))
	p.line("keys", "%s", counted(keys, count{expired, "expired"}))
	return nil
}

type count struct {
	n    int
	what string
}

// counted is a number and what of it is worth a word: "5, 2 disabled".
func counted(n int, parts ...count) string {
	out := fmt.Sprint(n)
	for _, c := range parts {
		if c.n > 0 {
			out += fmt.Sprintf(", %d %s", c.n, c.what)
		}
	}
	return out
}

// draw writes the picture for people.
func (p *picture) draw(w io.Writer) error {
	var b strings.Builder
	switch {
	case p.Status == "unknown":
		b.WriteString("cannot tell\n")
	case len(p.Problems) == 0:
		b.WriteString("all is well\n")
	default:
		b.WriteString(plural(len(p.Problems), "problem") + "\n")
	}
	for i, x := range p.Problems {
		if i == shownProblems {
			fmt.Fprintf(&b, "  … and %d more: keybridge status --json\n", len(p.Problems)-i)
			break
		}
		fmt.Fprintf(&b, "  ✗ %s\n", printable(x.What))
		if x.Do != "" {
			fmt.Fprintf(&b, "      %s\n", printable(x.Do))
		}
	}
	rows := [][]string{}
	for _, l := range p.Lines {
		rows = append(rows, []string{" ", l.Part, l.Is})
	}
	if len(rows) > 0 {
		b.WriteByte('\n')
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return table(w, rows)
}
