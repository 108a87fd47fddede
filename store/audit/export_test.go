package audit

import "os"

// File is what tests put a failing disk under.
type File = file

// OpenOn opens a log on wrap(the real file).
func OpenOn(path string, wrap func(*os.File) File) (*Log, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	l, err := newLog(path, wrap(f))
	if err != nil {
		f.Close()
	}
	return l, err
}

// Parse is the line parser, and Encode what must give the same bytes again.
func Parse(b []byte) (again []byte, err error) {
	e, l, err := parse(b)
	if err != nil {
		return nil, err
	}
	again, _, err = encode(nil, &e, Head{Lines: l.Seq - 1, Hash: l.Prev})
	return again, err
}

// MaxLine bounds a line.
const MaxLine = maxLine
