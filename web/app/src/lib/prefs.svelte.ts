// What this browser prefers. Kept here alone; nothing of it is secret.
type Theme = 'auto' | 'light' | 'dark';

function load(key: string): string | null {
  try {
    return localStorage.getItem('opentap.' + key);
  } catch {
    return null; // storage may be forbidden
  }
}

function save(key: string, value: string) {
  try {
    localStorage.setItem('opentap.' + key, value);
  } catch {
    // then it holds for this visit
  }
}

class Prefs {
  theme = $state<Theme>((load('theme') as Theme) || 'auto');
  utc = $state(load('time') === 'utc');

  setTheme(t: Theme) {
    this.theme = t;
    save('theme', t);
    this.apply();
  }

  setUTC(on: boolean) {
    this.utc = on;
    save('time', on ? 'utc' : 'local');
  }

  apply() {
    const root = document.documentElement;
    if (this.theme === 'auto') root.removeAttribute('data-theme');
    else root.setAttribute('data-theme', this.theme);
  }
}

export const prefs = new Prefs();
