package controller

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Doctor has the host that this controller runs on look at itself.
type Doctor func(ctx context.Context) (want.Examination, error)

// SetDoctor gives the way to the doctor; it must be called before a door is opened.
func (c *Controller) SetDoctor(d Doctor) { c.doctor = d }

// Doctor tells what the host finds when it looks at itself. One look at a time: it writes to the disks.
func (c *Controller) Doctor(ctx context.Context, id auth.Identity) (want.Examination, error) {
	if !id.May(auth.Administer) {
		return want.Examination{}, c.refuse(ctx, id, "node.examine", "", auth.Administer)
	}
	if c.doctor == nil {
		return want.Examination{}, fault.New(fault.Unavailable, "this controller has no doctor")
	}
	if !c.looking.CompareAndSwap(false, true) {
		return want.Examination{}, &fault.Error{Kind: fault.Unavailable, Msg: "the host is being looked at already", Hint: "ask again in a moment"}
	}
	defer c.looking.Store(false)
	return c.doctor(ctx)
}
