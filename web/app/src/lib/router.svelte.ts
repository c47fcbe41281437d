import { untrack } from 'svelte';

// Where we are is in the URL's fragment: it reaches no server and no log, every view can be linked to, and back works.

export interface Place {
  path: string[];
  query: URLSearchParams;
}

function read(): Place {
  const raw = location.hash.replace(/^#\/?/, '');
  const cut = raw.indexOf('?');
  const path = (cut < 0 ? raw : raw.slice(0, cut))
    .split('/')
    .filter(Boolean)
    .map((s) => {
      try {
        return decodeURIComponent(s);
      } catch {
        return s;
      }
    });
  return { path, query: new URLSearchParams(cut < 0 ? '' : raw.slice(cut + 1)) };
}

class Router {
  place = $state.raw<Place>(read());

  constructor() {
    addEventListener('hashchange', () => {
      this.place = read();
    });
  }

  /** go opens another place; with replace it takes the place of this one in the history. */
  go(to: string, replace = false) {
    if (replace) {
      history.replaceState(null, '', to);
      this.place = read();
    } else {
      location.hash = to.replace(/^#/, '');
    }
  }

  /** set changes what the query says, without a step in the history. */
  set(values: Record<string, string | undefined>, step = false) {
    // Who sets from an effect must not be run again by what it has set.
    const place = untrack(() => this.place);
    const q = new URLSearchParams(place.query);
    const before = q.toString();
    for (const [k, v] of Object.entries(values)) {
      if (v === undefined || v === '') q.delete(k);
      else q.set(k, v);
    }
    const s = q.toString();
    if (s === before) return;
    this.go('#/' + place.path.map(encodeURIComponent).join('/') + (s ? '?' + s : ''), !step);
  }
}

export const router = new Router();

/** to spells a place. */
export function to(path: string[], query: Record<string, string | undefined> = {}): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v) q.set(k, v);
  const s = q.toString();
  return '#/' + path.map(encodeURIComponent).join('/') + (s ? '?' + s : '');
}
