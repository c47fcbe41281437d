package segment

import "os"

// maxChores is how many of the disk's slow tasks may be outstanding before the writing goroutine waits for them.
const maxChores = 8

// chores are tasks that wait for the disk beside the goroutine that writes chunks: syncing, and finishing segments that
// are full. They are done one after the other, in order; after one has failed, none. Used by one goroutine.
type chores struct {
	last        chan error // of the newest; nil = there has been none
	outstanding int
	ended       chan struct{} // one value for each that has ended
	failed      error
}

// add has fn done after those before.
func (c *chores) add(fn func() error) {
	if c.ended == nil {
		c.ended = make(chan struct{}, maxChores)
	}
	for c.outstanding >= maxChores {
		<-c.ended
		c.outstanding--
	}
	before, done := c.last, make(chan error, 1)
	c.last = done
	c.outstanding++
	go func() {
		var err error
		if before != nil {
			err = <-before
		}
		if err == nil {
			err = fn()
		}
		done <- err
		c.ended <- struct{}{}
	}()
}

// busy reports whether there is something to do.
func (c *chores) busy() bool {
	for {
		select {
		case <-c.ended:
			c.outstanding--
			continue
		default:
		}
		return c.outstanding > 0
	}
}

// poll returns the error of the last one, if that has ended.
func (c *chores) poll() error {
	select {
	case err := <-c.last: // never, if nil
		c.last, c.failed = nil, err
	default:
	}
	return c.failed
}

// wait returns when all have ended, with the first error.
func (c *chores) wait() error {
	if c.last != nil {
		c.failed = <-c.last
		c.last = nil
	}
	for ; c.outstanding > 0; c.outstanding-- {
		<-c.ended
	}
	return c.failed
}

// spare is the file of a segment that is to come, made ahead.
type spare struct {
	file   *os.File
	direct bool
	err    error
}

// prepare makes the next segment's file while there is time.
func (s *sink) prepare() {
	if s.spare != nil {
		return
	}
	made := make(chan spare, 1)
	s.spare = made
	path, direct := newPath(s.cfg.Dir, s.number+1), s.cfg.Direct
	go func() {
		f, isDirect, err := create(path, direct)
		made <- spare{f, isDirect, err}
	}()
}

// take returns the next segment's file.
func (s *sink) take() (f *os.File, direct bool, err error) {
	if s.spare != nil {
		p := <-s.spare
		s.spare = nil
		if p.err == nil {
			return p.file, p.direct, nil
		}
	}
	return create(newPath(s.cfg.Dir, s.number+1), s.cfg.Direct)
}

// dropSpare gives up what was made ahead.
func (s *sink) dropSpare() {
	if s.spare == nil {
		return
	}
	if p := <-s.spare; p.err == nil {
		p.file.Close()
		os.Remove(newPath(s.cfg.Dir, s.number+1))
	}
	s.spare = nil
}
