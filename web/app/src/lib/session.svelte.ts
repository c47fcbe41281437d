import { ask, onSignedOut, Refusal, type Capabilities, type Session } from './api';
import { live } from './live.svelte';
import { router } from './router.svelte';

/** Who looks. */
class Visit {
  who = $state.raw<Session | null>(null);
  state = $state<'finding' | 'in' | 'out' | 'away'>('finding');
  reason = $state('');
  can = $state.raw<Capabilities | null>(null);

  constructor() {
    onSignedOut(() => this.leave('You were signed out: the session has ended or its token was revoked.'));
  }

  async begin() {
    const code = /^#code=([A-Za-z0-9_]+)/.exec(location.hash)?.[1];
    if (code) {
      router.go('#/', true); // a code that was used is of no use, and it looks like a secret
      try {
        await this.enter({ code });
        return;
      } catch (e) {
        this.reason = e instanceof Refusal ? e.message + (e.hint ? '; ' + e.hint : '') : String(e);
      }
    }
    await this.find();
  }

  async find() {
    try {
      const who = await ask<Session>('/v1/session', { quiet: true });
      if (who.via === 'nobody') {
        this.state = 'out';
        return;
      }
      this.who = who;
      await this.into();
    } catch {
      this.state = 'away';
      window.setTimeout(() => void this.find(), 1500);
    }
  }

  async enter(by: { token: string } | { code: string }) {
    this.who = await ask<Session>('/v1/session', { method: 'POST', body: by, quiet: true });
    this.reason = '';
    await this.into();
  }

  private async into() {
    this.state = 'in';
    live.open(() => this.leave('You were signed out: the session has ended or its token was revoked.'));
    this.can = await ask<Capabilities>('/v1/capabilities').catch(() => null);
  }

  async out() {
    await ask('/v1/session', { method: 'DELETE', quiet: true }).catch(() => {});
    this.leave('');
    await this.find(); // whoever needs no token is let in again as anonymous
  }

  leave(reason: string) {
    if (this.state === 'out') return;
    live.forget();
    this.who = null;
    this.reason = reason;
    this.state = 'out';
  }
}

export const visit = new Visit();
