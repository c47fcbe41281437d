package iio

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"opentap/sensor/sysfs"
)

// maxChannels bounds what is believed of a device, which in a test or a container may be anything.
const maxChannels = 1024

// find finds the channels of all devices.
func find(ctx context.Context, root string) ([]channel, error) {
	dirs, err := sysfs.Numbered(filepath.Join(root, "bus", "iio", "devices"), "iio:device")
	if err != nil {
		return nil, err
	}
	var found []channel
	seen := make(map[string]int)
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		driver, err := sysfs.ReadWord(dir, "name")
		if err != nil {
			continue // unplugged while we looked
		}
		chip := sysfs.Unique(seen, "iio/"+sysfs.ChipName(driver, deviceID(dir)))
		found = append(found, channels(dir, chip, driver)...)
	}
	return found, nil
}

// deviceID is of the device that the IIO device belongs to: the folder above.
func deviceID(dir string) string {
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	if parent := filepath.Dir(path); filepath.Base(parent) != "devices" {
		return sysfs.DeviceID(parent)
	}
	return ""
}

// channels finds the values in a device's directory.
func channels(dir, chip, driver string) []channel {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		files[e.Name()] = true
	}
	label, err := sysfs.ReadWord(dir, "label") // of the device: where it sits
	if err != nil {
		label = driver
	}
	var found []channel
	for _, e := range entries {
		id, ok := strings.CutPrefix(e.Name(), "in_")
		if !ok {
			continue
		}
		id, done := strings.CutSuffix(id, "_input")
		if !done {
			if id, ok = strings.CutSuffix(id, "_raw"); !ok || files["in_"+id+"_input"] {
				continue
			}
		}
		k := kindOf(id)
		if k == nil {
			continue
		}
		c := channel{name: chip + "/" + id, dir: dir, file: e.Name(), done: done, kind: k}
		if !done {
			c.scale, c.offset = shared(files, id, k, "_scale"), shared(files, id, k, "_offset")
		}
		if text, err := sysfs.ReadWord(dir, "in_"+id+"_label"); err == nil {
			c.alias = label + " " + text
		}
		if found = append(found, c); len(found) == maxChannels {
			break
		}
	}
	return found
}

// kindOf returns the kind of a channel: accel_x, temp0, voltage0-voltage1; nil for what is no measure, such as activity.
func kindOf(id string) *kind {
	for i := range kinds {
		rest, ok := strings.CutPrefix(id, kinds[i].prefix)
		if ok && (rest == "" || rest[0] == '_' || rest[0] == '-' || rest[0] >= '0' && rest[0] <= '9') {
			return &kinds[i]
		}
	}
	return nil
}

// shared returns the file of a channel's attribute, its own or one for all channels of the kind; "" when there is none.
func shared(files map[string]bool, id string, k *kind, suffix string) string {
	candidates := []string{"in_" + id + suffix}
	if a, b, ok := strings.Cut(id, "-"); ok { // of differential channels: in_voltage-voltage_scale
		candidates = append(candidates, "in_"+strings.TrimRight(a, "0123456789")+"-"+strings.TrimRight(b, "0123456789")+suffix)
	}
	for _, f := range append(candidates, "in_"+k.prefix+suffix, "in"+suffix) {
		if files[f] {
			return f
		}
	}
	return ""
}
