package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"opentap/capture/segment"
	"opentap/fault"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// errDamaged ends a verification that found damage.
var errDamaged = errors.New("the recording is damaged")

func (a *app) importCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "import FILE... -d DIR",
		Short: "Make an indexed recording of capture files",
		Long: `import makes a recording, with checksums and an index, of the packets of pcap and pcapng files, in the order in which
they are there. DIR appears when it is whole. All packets must be of one link type, Ethernet or raw IP.`,
		Args:    cobra.MinimumNArgs(1),
		Example: "  opentap import monday.pcap tuesday.pcapng -d week\n  opentap query week 'host 10.0.0.7' -w host.pcapng",
		RunE: a.do(func(ctx context.Context, files []string) error {
			if dir == "" {
				return usagef("-d DIR says where the recording goes")
			}
			return a.importFiles(ctx, files, filepath.Clean(dir))
		}),
	}
	cmd.Flags().StringVarP(&dir, "directory", "d", "", "the recording to make; it must not be there, or be empty")
	return cmd
}

func (a *app) importFiles(ctx context.Context, files []string, dir string) (err error) {
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return fmt.Errorf("%s is there already, and not empty", dir)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part) // gone already when all went well
	im := importer{a: a, dir: part, p: a.progress()}
	defer im.p.done()
	for _, name := range files {
		if err = im.file(ctx, name); err != nil {
			if name != "-" {
				err = fmt.Errorf("%s: %w", name, err)
			}
			break
		}
	}
	if im.w != nil {
		im.account.Seen += im.account.Captured
		err = errors.Join(err, im.w.Close(im.account))
	}
	if err != nil {
		return err
	}
	if im.w == nil {
		return errors.New("there are no packets to import")
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Chmod(part, 0o750); err != nil {
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	im.p.done()
	a.tell("%d packets, %s", im.account.Captured, octets(im.account.StoredOctets))
	return nil
}

// importer copies packets into a recording.
type importer struct {
	a       *app
	dir     string
	p       *progress
	w       *segment.Writer
	link    packet.LinkType
	account ledger.Account
}

func (im *importer) file(ctx context.Context, name string) error {
	in, size := im.a.stdin, int64(0)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return errors.Unwrap(err) // the name is in front already
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil {
			size = st.Size()
		}
		in = f
	}
	r, err := pcap.NewReader(in)
	if err != nil {
		return err
	}
	var k pcap.Packet
	for n := 0; ; n++ {
		if err := r.Next(&k); err != nil {
			if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			for _, s := range r.Stats() {
				if s.Has&pcap.HasDropped != 0 {
					im.account.Dropped[ledger.Ring] += s.Dropped
					im.account.Seen += s.Dropped
				}
			}
			return nil
		}
		face := r.Interfaces()[k.Interface]
		if err := im.begin(face, name); err != nil {
			return err
		}
		im.account.Captured++
		im.account.Octets += uint64(k.OrigLen)
		im.account.StoredOctets += uint64(len(k.Data))
		for !im.w.Append(k.Time, k.OrigLen, k.Data, k.Direction) {
			if err := im.w.Flush(); err != nil {
				return err
			}
		}
		if n&0xffff == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a := im.account
			a.Seen += a.Captured
			im.w.Account(a)
			if now := time.Now(); im.p.due(now) {
				line := fmt.Sprintf("importing %s  %d packets", filepath.Base(name), im.account.Captured)
				if at := r.Offset(); size > 0 && at > 0 {
					line += fmt.Sprintf("  %d%%", at*100/size)
				}
				im.p.show(line)
			}
		}
	}
}

// begin makes the recording when the first packet says of what link type it is.
func (im *importer) begin(face pcap.Interface, name string) error {
	switch {
	case face.Link != packet.LinkEthernet && face.Link != packet.LinkRaw:
		return fmt.Errorf("packets of link type %d: recordings are of Ethernet (%d) or raw IP (%d)", face.Link, packet.LinkEthernet, packet.LinkRaw)
	case im.w != nil && face.Link != im.link:
		return fmt.Errorf("packets of link type %d after some of %d: a recording has one", face.Link, im.link)
	case im.w != nil:
		return nil
	}
	cfg := segment.DefaultConfig(im.dir)
	cfg.FlushEvery, cfg.SyncEvery = 0, 0
	cfg.Interface = face
	if face.Name == "" && name != "-" {
		cfg.Interface.Name = filepath.Base(name)
	}
	cfg.Section = pcap.Section{Application: "opentap " + programVersion(), Comment: "imported from " + filepath.Base(name)}
	im.link = face.Link
	var err error
	im.w, err = segment.Create(cfg)
	return err
}

func (a *app) verifyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Check every checksum and count of a recording",
		Long: `verify reads a whole recording: checksums, counts, packet blocks, and that its index is just what the packets make. It
changes nothing and may run beside the daemon that writes it. With damage it says where, and exits with 1.`,
		Args:    cobra.ExactArgs(1),
		Example: "  opentap verify /var/lib/opentap/captures/recordings/eth0",
		RunE: a.do(func(ctx context.Context, args []string) error {
			v, err := a.verify(ctx, args[0])
			if err != nil {
				return err
			}
			if len(v.Problems) > 0 {
				return errDamaged
			}
			return nil
		}),
	}
}

func (a *app) verify(ctx context.Context, dir string) (segment.Verification, error) {
	p := a.progress()
	v, err := segment.Verify(ctx, dir, func(done, all int64) {
		if now := time.Now(); p.due(now) && all > 0 {
			p.show(fmt.Sprintf("verifying  %s  %d%%", octets(done), done*100/all))
		}
	})
	p.done()
	if errors.Is(err, syscall.ENOTDIR) {
		return v, &fault.Error{Kind: fault.Invalid, Msg: dir + " is a file, and no recording", Hint: "opentap import FILE -d DIR makes a recording of a capture file"}
	}
	if err != nil {
		return v, err
	}
	for i := range v.Problems {
		a.say("%s", v.Problems[i].String())
	}
	fmt.Fprintf(a.stdout, "%d segments (%d not sealed), %d chunks, %d packets, %s; %d indexes agree, %d missing; %d problems\n",
		v.Segments, v.Open, v.Chunks, v.Packets, octets(v.Octets), v.Indexed, v.Missing, len(v.Problems))
	return v, nil
}

func (a *app) repairCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "repair DIR",
		Short: "Make a recording whole after a crash",
		Long: `repair does what opentapd does at its start: a segment that was not closed is cut behind its last complete chunk and
sealed. Then indexes that are missing or wrong are built. Complete chunks are never changed. No one may be writing.`,
		Args:    cobra.ExactArgs(1),
		Example: "  opentap repair rec",
		RunE: a.do(func(ctx context.Context, args []string) error {
			dir := args[0]
			if _, err := os.Stat(dir); err != nil {
				return err
			}
			rep, err := segment.Recover(dir)
			if err != nil {
				return err
			}
			for _, s := range rep.Segments {
				what := fmt.Sprintf("kept %d chunks with %d packets, cut %s", s.Chunks, s.Packets, octets(s.Cut))
				if s.Removed {
					what = "held nothing, removed"
				}
				fmt.Fprintf(a.stdout, "%s: %s\n", s.Path, what)
				for _, d := range s.Damage {
					a.say("%s: lost from offset %d to %d: %s (%d packets)", s.Path, d.From, d.To, d.Msg, d.Packets)
				}
			}
			v, err := a.verify(ctx, dir)
			if err != nil {
				return err
			}
			lasting, wrong := 0, false
			for i := range v.Problems {
				if v.Problems[i].Index {
					wrong = true
				} else {
					lasting++
				}
			}
			n, err := segment.Reindex(ctx, dir, wrong)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%d segments sealed, %d indexes built\n", len(rep.Segments), n)
			if lasting > 0 {
				return fmt.Errorf("%w: what is lost stays lost, the rest can be read", errDamaged)
			}
			return nil
		}),
	}
}
