package hwmon

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"opentap/sensor/sysfs"
)

// maxChannels bounds what is believed of a chip, which in a test or a container may be anything.
const maxChannels = 1024

// findChips finds the channels of class hwmon.
func findChips(ctx context.Context, root string) ([]channel, error) {
	dirs, err := sysfs.Numbered(filepath.Join(root, "class", "hwmon"), "hwmon")
	if err != nil {
		return nil, err
	}
	var found []channel
	seen := make(map[string]int)
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		values := dir
		name, err := sysfs.ReadWord(values, "name")
		if err != nil { // drivers of before Linux 3.13 have their files at the device
			values = filepath.Join(dir, "device")
			if name, err = sysfs.ReadWord(values, "name"); err != nil {
				continue // unplugged while we looked, or not a chip
			}
		}
		chip := sysfs.Unique(seen, "hwmon/"+sysfs.ChipName(name, sysfs.DeviceID(filepath.Join(dir, "device"))))
		found = append(found, channels(values, chip, name)...)
	}
	return found, nil
}

// findZones finds the zones of class thermal.
func findZones(ctx context.Context, root string) ([]channel, error) {
	dirs, err := sysfs.Numbered(filepath.Join(root, "class", "thermal"), "thermal_zone")
	if err != nil {
		return nil, err
	}
	var found []channel
	seen := make(map[string]int)
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		typ, err := sysfs.ReadWord(dir, "type")
		if err != nil {
			continue
		}
		found = append(found, channel{name: sysfs.Unique(seen, "thermal/"+typ), dir: dir, file: "temp", kind: &thermalKind})
	}
	return found, nil
}

// channels finds the values in a chip's directory.
func channels(dir, chip, driver string) []channel {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		files[e.Name()] = true
	}
	var found []channel
	for _, e := range entries {
		k, id := channelOf(e.Name(), files)
		if k == nil {
			continue
		}
		c := channel{name: chip + "/" + id, dir: dir, file: e.Name(), kind: k}
		if files[id+"_fault"] {
			c.fault = id + "_fault"
		}
		if label, err := sysfs.ReadWord(dir, id+"_label"); err == nil {
			c.alias = driver + " " + label
		}
		if found = append(found, c); len(found) == maxChannels {
			break
		}
	}
	return found
}

// channelOf returns the kind and name (temp1) of the channel whose value file holds; nil when it holds none, or when a
// better file of the same channel is there.
func channelOf(file string, files map[string]bool) (*kind, string) {
	for i := range kinds {
		k := &kinds[i]
		rest, ok := strings.CutPrefix(file, k.prefix)
		if !ok {
			continue
		}
		for better, suffix := range k.suffixes {
			num, ok := strings.CutSuffix(rest, suffix)
			if !ok || num == "" || len(num) > 9 || strings.Trim(num, "0123456789") != "" {
				continue
			}
			id := k.prefix + num
			if better > 0 && files[id+k.suffixes[0]] {
				return nil, ""
			}
			return k, id
		}
	}
	return nil, ""
}
