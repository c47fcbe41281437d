package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) retrieveCmd() *cobra.Command {
	var file, format string
	var failOnLoss, explain bool
	cmd := &cobra.Command{
		Use:   "retrieve ID",
		Short: "Retrieve a capture's data",
		Long: `retrieve writes what a capture has so far, or all of it once it has ended.

An interrupted download goes on where it stopped when the same command is given again: until it is whole the data is in
FILE.part, and FILE.part.json says what it is. When the server no longer has that snapshot it begins anew, and says so.`,
		Args: cobra.ExactArgs(1),
		Example: `  opentap retrieve cap-1 -w cap-1.pcapng
  opentap retrieve cap-1 -w flows.parquet
  opentap retrieve cap-1 --format pcap -w - | tcpdump -r -`,
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			if file == "" {
				return usagef("-w FILE says where the data goes; - is standard output")
			}
			v, err := c.Capture(ctx, args[0])
			if err != nil {
				return err
			}
			f := want.Format(format)
			if f == "" {
				f = formatOf(file, v.Kind)
			}
			if err := checkFormat(f, v.Kind); err != nil {
				return err
			}
			t, err := a.openTarget(file, f)
			if err != nil {
				return err
			}
			defer t.close()
			if err := a.download(ctx, c, v, t); err != nil {
				return err
			}
			if !t.part.Final {
				a.say("note: the capture has not ended; this is what it had until now")
			}
			if explain {
				a.explainSearch(&v)
			}
			return a.conclude(&v, t, failOnLoss)
		}),
	}
	fl := cmd.Flags()
	fl.StringVarP(&file, "write", "w", "", "file to write; - is standard output")
	fl.StringVar(&format, "format", "", "pcapng, pcap, csv, classic, ndjson, parquet or arrow (default: as the file's name ends)")
	fl.BoolVar(&explain, "explain", false, "of a capture from a recording: tell what was read and what was skipped")
	fl.BoolVar(&failOnLoss, "fail-on-loss", false, "exit with 6 when packets were lost or the window has gaps")
	return cmd
}

// download brings the capture's data to the target, resuming what the target has of it. A signal interrupts it.
func (a *app) download(ctx context.Context, c *client.Client, v want.View, t *target) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := t.resume(v.UID); err != nil {
		return err
	}
	if t.part.Offset > 0 {
		a.tell("going on at %s of %s", octets(t.part.Offset), t.path+".part")
	}
	p := a.progress()
	told := false
	err := c.Download(ctx, v.ID, t.format, t.writer(), &t.part, func(part client.Part) error {
		if part.Restarted && !told {
			told = true
			p.done()
			a.say("note: the data has changed on the server since the download was interrupted; beginning anew")
		}
		now := time.Now()
		p.download(part, now)
		return t.note(now)
	})
	p.done()
	if err != nil {
		t.keep()
		if t.file != nil && t.part.Offset > 0 {
			a.say("%s has come; this goes on with the rest: %s", octets(t.part.Offset), t.again(v.ID))
		}
		return err
	}
	return t.finish()
}
