package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"keybridge/store"
)

// modeNormal is the only repository mode: a repository shows its connectors side by side.
const modeNormal = "NORMAL"

// repoItem is a repository as the API shows it.
type repoItem struct {
	ID          string           `json:"id"`
	Name        string           `json:"name"`
	StorageType string           `json:"storageType"` // empty for an AI-only repository
	Mode        string           `json:"mode"`
	WorkspaceID string           `json:"workspaceId"`
	Buckets     []repoBucket     `json:"buckets"`
	LLMs        []repoLLM        `json:"aiLlms"`
	APIKeys     []storageKeyItem `json:"apiKeys"`
	AIAPIKeys   []aiKeyItem      `json:"aiApiKeys"`
	CreatedAt   time.Time        `json:"createdAt"`
	Disabled    bool             `json:"disabled"`
	Version     uint64           `json:"version"`
}

type repoBucket struct {
	Folder   string     `json:"folder"`
	Master   bool       `json:"master"`
	BucketID string     `json:"bucketId"`
	Bucket   bucketItem `json:"bucket"`
}

type repoLLM struct {
	ID  string  `json:"aiLlmId"`
	LLM llmItem `json:"aiLlm"`
}

// repoName is how a connector names the repositories that use it.
type repoName struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type repoAnswer struct {
	Success bool   `json:"success"`
	RepoID  string `json:"repoId"`
}

// repoForm is the body of POST and PUT /repo; nil lists are absent.
type repoForm struct {
	workspace, name   string
	storageType, mode string
	disabled          *bool
	storage           []store.RepositoryStorage
	ai                []string
	setStorage, setAI bool
}

func readRepoForm(b *body) (*repoForm, error) {
	f := &repoForm{
		workspace:   b.id("workspaceId"),
		name:        b.text("name"),
		storageType: b.text("storageType"),
		mode:        b.text("mode"),
		disabled:    b.boolean("disabled"),
	}
	var items []*body
	items, f.setStorage = b.objects("repoBuckets")
	for _, item := range items {
		st := store.RepositoryStorage{ConnectorID: item.id("bucketId")}
		if master := item.boolean("master"); master != nil {
			st.Master = *master
		}
		if st.ConnectorID == "" {
			item.fail("bucketId", "is required")
		}
		if st.Folder = item.text("folder"); st.Folder != "" {
			if why := badFolder(st.Folder); why != "" {
				item.fail("folder", "%s", why)
			}
		}
		if slices.ContainsFunc(f.storage, func(o store.RepositoryStorage) bool { return o.ConnectorID == st.ConnectorID }) {
			item.fail("bucketId", "is listed twice")
		}
		f.storage = append(f.storage, st)
	}
	items, f.setAI = b.objects("repoAiLlms")
	for _, item := range items {
		id := item.id("aiLlmId")
		if id == "" {
			item.fail("aiLlmId", "is required")
		}
		if slices.Contains(f.ai, id) {
			item.fail("aiLlmId", "is listed twice")
		}
		f.ai = append(f.ai, id)
	}
	if f.mode != "" && f.mode != modeNormal {
		b.fail("mode", "must be %s", modeNormal)
	}
	if f.storageType != "" {
		if _, err := storageType(f.storageType); err != nil && *b.err == nil {
			*b.err = err
		}
	}
	return f, *b.err
}

// apply puts a form into a repository and checks every connector that it then has.
func (f *repoForm) apply(ctx context.Context, s *server, r *store.Repository) error {
	if f.name != "" {
		r.Name = f.name
	}
	if f.disabled != nil {
		r.Disabled = *f.disabled
	}
	if f.setStorage {
		r.Storage = f.storage
	}
	if f.setAI {
		r.AI = f.ai
	}
	if f.storageType != "" {
		r.StorageType = store.ConnectorType(f.storageType)
	}
	if err := checkName(r.Name); err != nil {
		return err
	}
	buckets := map[string]bool{}
	for _, st := range r.Storage {
		c, err := s.member(ctx, st.ConnectorID, r.M.Workspace, "bucket "+st.ConnectorID)
		if err != nil {
			return err
		}
		if c.Type != store.TypeS3 {
			return notFound("bucket " + st.ConnectorID)
		}
		if r.StorageType == "" {
			r.StorageType = c.Type
		}
		if st.Folder != "" && c.Bucket == wholeAccount {
			return badField("repoBuckets", "bucket %s is a whole account; a folder needs one bucket", c.Name)
		}
		if buckets[c.Bucket] {
			return conflict("NORMAL_UNIT_FOLDER_ALREADY_USED", "repoBuckets: two connectors for buckets of the same name; an application could not tell them apart")
		}
		buckets[c.Bucket] = true
	}
	for _, id := range r.AI {
		c, err := s.member(ctx, id, r.M.Workspace, "AI connector "+id)
		if err != nil {
			return err
		}
		if c.Type == store.TypeS3 {
			return notFound("AI connector " + id)
		}
	}
	return nil
}

// member reads a connector of a workspace; one of another workspace is not there.
func (s *server) member(ctx context.Context, id, workspace, what string) (*store.Connector, error) {
	c, err := live[*store.Connector](ctx, s, id, what)
	if err == nil && c.M.Workspace != workspace {
		return nil, notFound(what)
	}
	return c, err
}

// newRepo decides on the repository that a body asks for; *id becomes its id.
func (s *server) newRepo(q *call, b *body, id *string) (func() ([]store.Write, error), error) {
	f, err := readRepoForm(b)
	if err != nil {
		return nil, err
	}
	if f.workspace == "" {
		return nil, badField("workspaceId", "is required")
	}
	creation, err := q.creation(b)
	if err != nil {
		return nil, err
	}
	return func() ([]store.Write, error) {
		if err := q.require(f.workspace, store.AccessWrite); err != nil {
			return nil, err
		}
		earlier, found, err := replay[*store.Repository](q.Context(), s, creation)
		if err != nil || found {
			if found {
				*id, q.version = earlier.M.ID, earlier.M.Version
			}
			return nil, err
		}
		if _, err := live[*store.Workspace](q.Context(), s, f.workspace, "workspace"); err != nil {
			return nil, err
		}
		r := &store.Repository{M: newMeta(q, "", f.workspace, creation)}
		if err := f.apply(q.Context(), s, r); err != nil {
			return nil, err
		}
		*id, q.version = r.M.ID, 1
		return []store.Write{store.Put(r)}, nil
	}, nil
}

// changedRepo decides on the repository in the path as a body changes it.
func (s *server) changedRepo(q *call, b *body, id *string) (func() ([]store.Write, error), error) {
	f, err := readRepoForm(b)
	if err != nil {
		return nil, err
	}
	return func() ([]store.Write, error) {
		r, err := addressed[*store.Repository](s, q, "id", "repository", store.AccessWrite)
		if err != nil {
			return nil, err
		}
		if err := q.match(&r.M); err != nil {
			return nil, err
		}
		if f.workspace != "" && f.workspace != r.M.Workspace {
			return nil, badField("workspaceId", "a repository stays in its workspace")
		}
		if err := f.apply(q.Context(), s, r); err != nil {
			return nil, err
		}
		*id, q.version = r.M.ID, r.M.Version+1
		return []store.Write{store.Put(r)}, nil
	}, nil
}

func (s *server) createRepo(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	var id string
	decide, err := s.newRepo(q, b, &id)
	if err != nil {
		return nil, err
	}
	err = s.commit(q, decide)
	return repoAnswer{true, id}, err
}

func (s *server) updateRepo(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	var id string
	decide, err := s.changedRepo(q, b, &id)
	if err != nil {
		return nil, err
	}
	err = s.commit(q, decide)
	return repoAnswer{true, id}, err
}

// validateNewRepo says what creating a repository would, and creates none.
func (s *server) validateNewRepo(q *call) (any, error) {
	var id string
	return done{true}, s.dryRun(q, &id, s.newRepo)
}

// validateRepo says what changing the repository would, and changes nothing.
func (s *server) validateRepo(q *call) (any, error) {
	var id string
	err := s.dryRun(q, &id, s.changedRepo)
	return repoAnswer{true, id}, err
}

func (s *server) dryRun(q *call, id *string, read func(*call, *body, *string) (func() ([]store.Write, error), error)) error {
	b, err := readBody(q)
	if err != nil {
		return err
	}
	defer b.wipe()
	decide, err := read(q, b, id)
	if err != nil {
		return err
	}
	writes, err := decide()
	q.version = 0 // of nothing that is there
	if err != nil {
		return err
	}
	return s.checkNames(q.Context(), writes)
}

// deleteRepo removes a repository and destroys its keys with it.
func (s *server) deleteRepo(q *call) (any, error) {
	var id string
	err := s.commit(q, func() ([]store.Write, error) {
		r, err := addressed[*store.Repository](s, q, "id", "repository", store.AccessWrite)
		if err != nil {
			return nil, err
		}
		if err := q.match(&r.M); err != nil {
			return nil, err
		}
		keys, err := all[*store.Key](q.Context(), s, r.M.Workspace)
		if err != nil {
			return nil, err
		}
		id = r.M.ID
		writes := []store.Write{s.remove(r)}
		for _, k := range keys {
			if k.Repository == r.M.ID {
				writes = append(writes, s.remove(k))
			}
		}
		return writes, nil
	})
	return repoAnswer{true, id}, err
}

func (s *server) listRepos(q *call) (any, error) {
	items, err := s.repos(q)
	return struct {
		Success bool       `json:"success"`
		Repos   []repoItem `json:"repos"`
	}{true, items}, err
}

func (s *server) repos(q *call) ([]repoItem, error) {
	workspace, err := q.queryID("workspaceId")
	if err != nil {
		return nil, err
	}
	only, err := q.queryID("repoId")
	if err != nil {
		return nil, err
	}
	if only != "" {
		// A filter that matches nothing the token may see is an empty list.
		r, err := live[*store.Repository](q.Context(), s, only, "repository")
		var f *failure
		switch {
		case errors.As(err, &f):
			return []repoItem{}, nil
		case err != nil:
			return nil, err
		case !q.may(r.M.Workspace, store.AccessRead) || workspace != "" && workspace != r.M.Workspace:
			return []repoItem{}, nil
		}
		workspace = r.M.Workspace
	}
	repos, err := visible[*store.Repository](s, q, workspace)
	if err != nil {
		return nil, err
	}
	connectors, err := visible[*store.Connector](s, q, workspace)
	if err != nil {
		return nil, err
	}
	credentials, err := visible[*store.Credential](s, q, workspace)
	if err != nil {
		return nil, err
	}
	keys, err := visible[*store.Key](s, q, workspace)
	if err != nil {
		return nil, err
	}
	view, byID := s.newView(nil, credentials, nil), map[string]*store.Connector{}
	for _, c := range connectors {
		byID[c.M.ID] = c
	}
	keysOf := map[string][]*store.Key{}
	for _, k := range keys {
		keysOf[k.Repository] = append(keysOf[k.Repository], k)
	}
	slices.SortFunc(repos, oldestFirst[*store.Repository])
	items := []repoItem{}
	for _, r := range repos {
		if only == "" || r.M.ID == only {
			items = append(items, showRepo(r, view, byID, keysOf[r.M.ID]))
		}
	}
	return items, nil
}

func showRepo(r *store.Repository, view *connectorView, connectors map[string]*store.Connector, keys []*store.Key) repoItem {
	item := repoItem{
		ID: r.M.ID, Name: r.Name, StorageType: string(r.StorageType), Mode: modeNormal, WorkspaceID: r.M.Workspace,
		Buckets: []repoBucket{}, LLMs: []repoLLM{}, APIKeys: showStorageKeys(keys), AIAPIKeys: showAIKeys(keys),
		CreatedAt: r.M.CreatedAt, Disabled: r.Disabled, Version: r.M.Version,
	}
	for _, st := range r.Storage {
		if c := connectors[st.ConnectorID]; c != nil {
			item.Buckets = append(item.Buckets, repoBucket{st.Folder, st.Master, st.ConnectorID, view.bucket(c)})
		}
	}
	for _, id := range r.AI {
		if c := connectors[id]; c != nil {
			item.LLMs = append(item.LLMs, repoLLM{id, view.llm(c)})
		}
	}
	return item
}

// users maps connectors of a workspace to the repositories that use them.
func (s *server) users(ctx context.Context, workspace string) (map[string][]repoName, error) {
	repos, err := all[*store.Repository](ctx, s, workspace)
	return usersOf(repos), err
}

func usersOf(repos []*store.Repository) map[string][]repoName {
	out := map[string][]repoName{}
	for _, r := range repos {
		name := repoName{r.M.ID, r.Name}
		for _, st := range r.Storage {
			out[st.ConnectorID] = append(out[st.ConnectorID], name)
		}
		for _, id := range r.AI {
			out[id] = append(out[id], name)
		}
	}
	return out
}
