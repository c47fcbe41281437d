package sysfs

import (
	"errors"
	"io/fs"
	"syscall"
)

// Reason says why there is no value, in words for people.
func Reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return "the sensor is gone"
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENODATA):
		return "the sensor has no value now"
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ETIMEDOUT):
		return "the sensor does not answer"
	case errors.Is(err, fs.ErrPermission):
		return "the sensor may not be read by this user"
	}
	var p *fs.PathError
	if errors.As(err, &p) { // people need not know where sysfs has it
		err = p.Err
	}
	return err.Error()
}
