// What is so now: told by the server's events, kept while the page is open.
import { SvelteMap } from 'svelte/reactivity';
import type { Capture, Node, Point, Rate } from './api';

export const depth = 90; // seconds of history
/** A stream that has been silent for longer is dead: the server sends a beat every ten seconds. */
const silent = 25_000; // ms

/** Past is the last rates of one point, oldest first. */
export class Past {
  packets = new Float32Array(depth);
  octets = new Float32Array(depth);
  dropped = new Float32Array(depth);

  push(p: number, o: number, d: number) {
    for (const [a, v] of [[this.packets, p], [this.octets, o], [this.dropped, d]] as [Float32Array, number][]) {
      a.copyWithin(0, 1);
      a[depth - 1] = v;
    }
  }
}

/** Speed is how fast a capture grows, from its last two reports that differ in time. */
interface Speed {
  at: number;
  captured: number;
  bytes: number;
  dropped: number;
  packetsPerSecond: number;
  bytesPerSecond: number;
  droppedPerSecond: number;
}

/** newest sorts captures, the newest first. Times are spelt alike, and need no language's order. */
export const newest = (a: Capture, b: Capture) => (a.created < b.created ? 1 : a.created > b.created ? -1 : a.uid < b.uid ? -1 : 1);

export const keyOf = (node: string, point: string) => node + '\u0000' + point;

class Live {
  /** connecting, open, lost, ended */
  state = $state<'connecting' | 'open' | 'lost' | 'ended'>('connecting');
  known = $state(false);
  name = $state('');
  version = $state('');
  nodes = $state.raw<Node[]>([]);
  points = $state.raw<Point[]>([]);
  captures = new SvelteMap<string, Capture>();
  rates = new Map<string, Rate>();
  past = new Map<string, Past>();
  total = new Past();
  speeds = new Map<string, Speed>();
  /** grows once a second: what is drawn from the past depends on it */
  beat = $state(0);
  now = $state(Date.now());
  skew = 0; // server's clock − ours, ms
  private source: EventSource | null = null;
  private heard = 0; // when the stream said something, ms of this browser's clock
  private onEnd: () => void = () => {};
  private timer = 0;
  private retry = 0;

  private listening = false;

  open(onEnd: () => void) {
    this.onEnd = onEnd;
    if (!this.timer) this.timer = window.setInterval(() => this.tick(), 1000);
    if (!this.listening) {
      this.listening = true;
      // A stream over a network that went away is dead long before it says so.
      addEventListener('offline', () => {
        if (this.source) {
          this.source.close();
          this.lose();
        }
      });
      addEventListener('online', () => {
        if (this.source && this.state === 'lost') this.connect();
      });
    }
    this.connect();
  }

  private connect() {
    this.source?.close();
    this.heard = Date.now();
    const s = new EventSource('/v1/events');
    this.source = s;
    const on = (name: string, fn: (doc: any) => void) =>
      s.addEventListener(name, (e) => {
        this.heard = Date.now();
        fn(JSON.parse((e as MessageEvent<string>).data));
      });
    on('beat', () => {});
    on('begin', (b) => {
      this.state = 'open';
      this.retry = 0;
      this.name = b.name;
      this.version = b.version;
      this.skew = new Date(b.time).getTime() - Date.now();
      this.rates.clear();
      this.fresh = true;
    });
    on('points', (d) => (this.points = d.points));
    on('nodes', (d) => (this.nodes = d.nodes));
    on('rates', (d) => {
      for (const r of d.rates as Rate[]) this.rates.set(keyOf(r.node, r.point), r);
    });
    on('captures', (d) => {
      if (this.fresh) {
        this.fresh = false;
        const have = new Set((d.captures as Capture[]).map((c) => c.uid));
        for (const uid of [...this.captures.keys()]) if (!have.has(uid)) this.captures.delete(uid);
      }
      for (const c of d.captures as Capture[]) this.put(c);
      for (const uid of d.gone as string[]) {
        this.captures.delete(uid);
        this.speeds.delete(uid);
      }
      this.known = true;
    });
    on('end', () => this.end());
    s.onerror = () => {
      this.lose();
      if (s.readyState === EventSource.CLOSED) {
        // refused, not lost: find out why, and go on
        s.close();
        this.retry = Math.min(this.retry + 1, 5);
        window.setTimeout(async () => {
          if (this.source !== s) return;
          try {
            const r = await fetch('/v1/session', { cache: 'no-store' });
            if (r.ok && (await r.json()).via === 'nobody') {
              this.end();
              return;
            }
          } catch {
            // still away
          }
          if (this.source === s) this.connect();
        }, 400 * this.retry);
      }
    };
  }

  private fresh = false;

  /** lose says that what is shown is as of before. What passes now is not known. */
  private lose() {
    this.state = 'lost';
    for (const r of this.rates.values()) Object.assign(r, { rx_packets: 0, tx_packets: 0, rx_octets: 0, tx_octets: 0, dropped: 0 });
  }

  private end() {
    this.close();
    this.state = 'ended';
    this.onEnd();
  }

  /** put takes in a capture's newest view, from an event or an answer. */
  put(c: Capture) {
    const l = c.status.ledger;
    const at = new Date(c.status.updated).getTime();
    const old = this.speeds.get(c.uid);
    const next = { at, captured: l.captured, bytes: c.status.bytes, dropped: l.dropped_total, packetsPerSecond: 0, bytesPerSecond: 0, droppedPerSecond: 0 };
    if (old && at > old.at) {
      const s = (at - old.at) / 1000;
      const smooth = (was: number, now: number) => (was ? was * 0.6 + now * 0.4 : now);
      next.packetsPerSecond = smooth(old.packetsPerSecond, Math.max(0, l.captured - old.captured) / s);
      next.bytesPerSecond = smooth(old.bytesPerSecond, Math.max(0, l.stored_octets - (old as any).stored) / s);
      next.droppedPerSecond = Math.max(0, l.dropped_total - old.dropped) / s;
    } else if (old) {
      Object.assign(next, { packetsPerSecond: old.packetsPerSecond, bytesPerSecond: old.bytesPerSecond, droppedPerSecond: old.droppedPerSecond });
    }
    (next as any).stored = l.stored_octets;
    this.speeds.set(c.uid, next);
    this.captures.set(c.uid, c);
  }

  private tick() {
    this.now = Date.now() + this.skew;
    if (this.source && Date.now() - this.heard > silent) {
      this.lose();
      this.connect();
    }
    let p = 0;
    let o = 0;
    let d = 0;
    for (const [key, r] of this.rates) {
      let past = this.past.get(key);
      if (!past) this.past.set(key, (past = new Past()));
      past.push(r.rx_packets + r.tx_packets, r.rx_octets + r.tx_octets, r.dropped);
      p += r.rx_packets + r.tx_packets;
      o += r.rx_octets + r.tx_octets;
      d += r.dropped;
    }
    this.total.push(p, o, d);
    this.beat++;
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  forget() {
    this.close();
    clearInterval(this.timer);
    this.timer = 0;
    this.known = false;
    this.points = [];
    this.nodes = [];
    this.captures.clear();
    this.rates.clear();
    this.past.clear();
    this.speeds.clear();
  }

  /** find takes an id or a uid. */
  find(id: string): Capture | undefined {
    const direct = this.captures.get(id);
    if (direct) return direct;
    for (const c of this.captures.values()) if (c.id === id) return c;
    return undefined;
  }
}

export const live = new Live();
