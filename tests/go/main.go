// A verifier that shares no code with tagledger: it knows the C2SP formats and nothing of the ledger's own.
//
// It opens the checkpoint with golang.org/x/mod/sumdb/note and reads hashes through tiles with golang.org/x/mod/sumdb/tlog,
// which checks every tile against the checkpoint's root. It then fetches every entry in bundles and checks that each is the
// leaf the tree has in its place, by its hash and by an inclusion proof. With an older checkpoint it checks that the log only
// grew since. tests/go_client.rs runs it; by hand, with Debian's golang-go and golang-golang-x-mod-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run tests/go/main.go -url http://127.0.0.1:7420 -vkey "$(cat ledger.vkey)"
//
// Exit code 0: everything checks out. 1: something does not, or could not be read; the reason is on standard error.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// C2SP tlog-tiles fixes the height of tiles.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

func main() {
	url := flag.String("url", "http://127.0.0.1:7420", "where the ledger serves HTTP")
	vkey := flag.String("vkey", "", "the ledger's verifier key, as in the file ledger.vkey")
	older := flag.String("older", "", "a file with an older checkpoint that this log must extend")
	save := flag.String("save", "", "a file to write the checkpoint to, once everything checks out")
	flag.Parse()
	if *vkey == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := verify(&ledger{url: strings.TrimSuffix(*url, "/"), seen: map[string][]byte{}}, *vkey, *older, *save); err != nil {
		fmt.Fprintln(os.Stderr, "not verified:", err)
		os.Exit(1)
	}
}

func verify(from *ledger, vkey, older, save string) error {
	verifier, err := note.NewVerifier(strings.TrimSpace(vkey))
	if err != nil {
		return fmt.Errorf("the verifier key: %w", err)
	}
	signed, err := from.get("checkpoint")
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(signed, verifier)
	if err != nil {
		return fmt.Errorf("the checkpoint: %w", err)
	}
	fmt.Printf("checkpoint of %s: %d entries, root %v\n", verifier.Name(), tree.N, tree.Hash)

	hashes := tlog.TileHashReader(tree, from)
	if err := verifyEntries(from, tree, hashes); err != nil {
		return err
	}
	fmt.Printf("%d of %d entries are in the tree, read through %d tiles\n", tree.N, tree.N, len(from.seen))

	if older != "" {
		if err := verifyGrowth(older, verifier, tree, hashes); err != nil {
			return err
		}
	}
	if save != "" {
		return os.WriteFile(save, signed, 0o644)
	}
	return nil
}

// openCheckpoint checks the signature and takes the text apart: C2SP tlog-checkpoint, without extension lines.
func openCheckpoint(signed []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return tlog.Tree{}, fmt.Errorf("%d lines where origin, size and root were expected", len(lines)-1)
	}
	if lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("it is of %q and signed by %q", lines[0], verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || lines[1] != strconv.FormatInt(size, 10) {
		return tlog.Tree{}, fmt.Errorf("its size is %q", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("its root is %q", lines[2])
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return tree, nil
}

// verifyEntries reads every bundle and checks every entry in it.
func verifyEntries(from *ledger, tree tlog.Tree, hashes tlog.HashReader) error {
	for first := int64(0); first < tree.N; first += tileWidth {
		entries, err := from.bundle(first/tileWidth, int(min64(tileWidth, tree.N-first)))
		if err != nil {
			return err
		}
		for i, entry := range entries {
			if err := verifyEntry(first+int64(i), entry, tree, hashes); err != nil {
				return fmt.Errorf("entry %d: %w", first+int64(i), err)
			}
		}
	}
	return nil
}

func verifyEntry(index int64, entry []byte, tree tlog.Tree, hashes tlog.HashReader) error {
	leaf := tlog.RecordHash(entry)
	stored, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return err
	}
	if stored[0] != leaf {
		return fmt.Errorf("its bytes hash to %v, the tree has %v there", leaf, stored[0])
	}
	proof, err := tlog.ProveRecord(tree.N, index, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf)
}

// verifyGrowth checks that the tree has the older checkpoint's as its beginning.
func verifyGrowth(file string, verifier note.Verifier, tree tlog.Tree, hashes tlog.HashReader) error {
	signed, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	older, err := openCheckpoint(signed, verifier)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if older.N > tree.N {
		return fmt.Errorf("the log shrank: %d entries, and %d before", tree.N, older.N)
	}
	if older.N > 0 {
		proof, err := tlog.ProveTree(tree.N, older.N, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash); err != nil {
			return fmt.Errorf("a fork: the log does not extend the older checkpoint of %d entries: %w", older.N, err)
		}
	}
	fmt.Printf("the log extends the older checkpoint of %d entries\n", older.N)
	return nil
}

// ledger reads over HTTP. It is a tlog.TileReader.
type ledger struct {
	url string
	// Tiles by path, once tlog has checked them.
	seen map[string][]byte
}

func (*ledger) Height() int { return tileHeight }

func (l *ledger) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := tilePath(tile)
		if data[i] = l.seen[path]; data[i] != nil {
			continue
		}
		var err error
		if data[i], err = l.get(path); err != nil {
			return nil, err
		}
		if len(data[i]) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s: %d bytes instead of %d", path, len(data[i]), tile.W*tlog.HashSize)
		}
	}
	return data, nil
}

func (l *ledger) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		l.seen[tilePath(tile)] = data[i]
	}
}

// tilePath is /tile/<L>/<N>[.p/<W>]: what tlog writes, without the height.
func tilePath(tile tlog.Tile) string {
	return strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight), "tile/", 1)
}

// bundle fetches entries [256 n, 256 n + width): each is its length in two bytes, big-endian, and its bytes.
func (l *ledger) bundle(n int64, width int) ([][]byte, error) {
	path := tilePath(tlog.Tile{H: tileHeight, L: 0, N: n, W: width})
	path = strings.Replace(path, "tile/0/", "tile/entries/", 1)
	rest, err := l.get(path)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(rest) > 0 {
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("%s: cut off in entry %d of the bundle", path, len(entries))
		}
		length := int(binary.BigEndian.Uint16(rest))
		entries = append(entries, rest[2:2+length])
		rest = rest[2+length:]
	}
	if len(entries) != width {
		return nil, fmt.Errorf("%s: %d entries instead of %d", path, len(entries), width)
	}
	return entries, nil
}

func (l *ledger) get(path string) ([]byte, error) {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(l.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	// A full bundle of the largest entries is just under 16 MiB.
	return io.ReadAll(io.LimitReader(response.Body, 16<<20))
}

func min64(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}
