package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func nodeCommand() *cobra.Command {
	cmd := group("node", "Bridges, as the control plane sees them")
	f := addAdminFlags(cmd)
	list := &cobra.Command{
		Use: "list", Short: "List bridges: whether they serve, and where applications reach them", Args: cobra.NoArgs,
		Long: `ONLINE: connected and serving. OFFLINE: connected, but sealed or not in sync. DISCONNECTED:
not connected to the control plane; it may be serving what it had last.`,
		Example: "  keybridge node list\n  keybridge node list --json | jq -r '.[] | select(.status != \"ONLINE\") | .name'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client(cmd)
			if err != nil {
				return err
			}
			all, err := c.Nodes(cmd.Context(), 0)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, n := range all {
				rows = append(rows, []string{n.Name, n.Status, n.Region, n.IP, n.URL, fmt.Sprintf("%d ms", n.LatencyMs), n.Version, ago(n.LastUpdated)})
			}
			return f.print(cmd, listed(all), "NAME STATUS REGION IP URL LATENCY VERSION HEARD", rows)
		},
	}
	cmd.AddCommand(list)
	return cmd
}

// ago says how long something is past.
func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return span(max(0, time.Since(*t))) + " ago"
}

func syncCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "sync", Short: "Show what bridges and their Envoys have taken in of the configuration", Args: cobra.NoArgs,
		Long: `Shows per bridge, and per Envoy behind it, and per type of configuration the version that was
sent and the one that was acknowledged, and the text of what was refused; and per bridge how it
found each keeper when it last asked for its share. It takes a token with a role in all workspaces.`,
		Example: "  keybridge sync\n  keybridge sync --json | jq '.[] | select(.lastNack != \"\")'",
	}
	f := addAdminFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		all, err := c.Sync(cmd.Context())
		if err != nil {
			return err
		}
		var rows [][]string
		for _, s := range all.Data {
			rows = append(rows, []string{s.Bridge, s.Node, kind(s.Type), fmt.Sprint(s.Sent), fmt.Sprint(s.Acked), syncState(s), s.Nack})
		}
		for _, k := range all.Keepers {
			rows = append(rows, []string{k.Bridge, k.Name, "Share", "", "", k.State, k.Detail})
		}
		return f.print(cmd, listed(all.Data), "BRIDGE NODE TYPE SENT ACKED STATE REFUSED", rows)
	}
	return cmd
}

// kind is the last part of a type's name.
func kind(typeURL string) string { return typeURL[strings.LastIndexAny(typeURL, "./")+1:] }

func syncState(s client.Sync) string {
	switch {
	case !s.Connected:
		return "away"
	case s.Nack != "":
		return "refused"
	case s.Acked < s.Sent:
		return "waiting"
	}
	return "ok"
}
