// How large the window is, and how large letters are in it: rows of lists have pixels, and grow with the letters.
class Screen {
  width = $state(innerWidth);
  height = $state(innerHeight);
  rem = $state(14);

  constructor() {
    const look = () => {
      this.width = innerWidth;
      this.height = innerHeight;
      this.rem = parseFloat(getComputedStyle(document.documentElement).fontSize) || 14;
    };
    look();
    addEventListener('resize', look);
  }

  /** narrow is where rows have two lines, and tables are cards. */
  get narrow(): boolean {
    return this.width <= 720;
  }

  /** rows of a list that fit below what needs so many rems. */
  rows(each: number, besides: number, least: number): number {
    return Math.max(least, Math.floor((this.height - besides * this.rem) / each));
  }
}

export const screen = new Screen();
