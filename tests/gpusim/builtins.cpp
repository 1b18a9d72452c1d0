// Functions that the device runtime provides: vprintf, __assertfail, malloc, free.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/memory.h"

namespace atoll::gpusim {
namespace {
std::string format(Warp& w, const char* fmt, u64 args, int lane) {
  std::string out;
  u64 at = 0;
  auto get = [&](u32 n) {
    at = (at + n - 1) / n * n;
    u64 v = 0;
    memcpy(&v, w.resolve(Space::Generic, args + at, n, lane, false), n);
    at += n;
    return v;
  };
  for (const char* p = fmt; *p; p++) {
    if (*p != '%') {
      out += *p;
      continue;
    }
    std::string spec = "%";
    p++;
    if (*p == '%') {
      out += '%';
      continue;
    }
    int longs = 0;
    while (*p && strchr("-+ #0123456789.*lhzjt", *p)) {
      if (*p == 'l' || *p == 'z' || *p == 'j' || *p == 't') {
        longs = *p == 'l' ? longs + 1 : 2;
      } else if (*p == 'h') {
      } else if (*p == '*')
        spec += std::to_string((int)get(4));
      else
        spec += *p;
      p++;
    }
    char buf[512];
    switch (*p) {
      case 'd':
      case 'i': {
        s64 v = longs ? (s64)get(8) : (s32)get(4);
        snprintf(buf, sizeof buf, (spec + "lld").c_str(), (long long)v);
        out += buf;
        break;
      }
      case 'u':
      case 'x':
      case 'X':
      case 'o': {
        u64 v = longs ? get(8) : get(4);
        snprintf(buf, sizeof buf, (spec + "ll" + *p).c_str(), (unsigned long long)v);
        out += buf;
        break;
      }
      case 'c': {
        int v = get(4);
        snprintf(buf, sizeof buf, (spec + "c").c_str(), v);
        out += buf;
        break;
      }
      case 'p': {
        u64 v = get(8);
        snprintf(buf, sizeof buf, "0x%llx", (unsigned long long)v);
        out += buf;
        break;
      }
      case 's': {
        u64 v = get(8);
        std::string s;
        if (!v)
          s = "(null)";
        else
          for (u64 q = v;; q++) {
            char c = *(char*)w.resolve(Space::Generic, q, 1, lane, false);
            if (!c) break;
            s += c;
          }
        out += s;
        break;
      }
      default: {
        u64 v = get(8);
        double dv;
        memcpy(&dv, &v, 8);
        snprintf(buf, sizeof buf, (spec + *p).c_str(), dv);
        out += buf;
      }
    }
  }
  return out;
}
u64 arg_of(Warp& w, const Inst& i, int k, u32 bytes, int lane) {
  u64 v = 0;
  memcpy(&v, &w.local[(size_t)lane * w.local_cap + w.cur.fr->local_base + i.x->v[0][k]], bytes);
  return v;
}
void set_ret(Warp& w, const Inst& i, u64 v, u32 bytes, int lane) {
  if (i.x->v[1].size()) memcpy(&w.local[(size_t)lane * w.local_cap + w.cur.fr->local_base + i.x->v[1][0]], &v, bytes);
}
}  // namespace

bool builtin_call(Warp& w, const Inst& i, const std::string& name, u32 m) {
  if (name == "vprintf") {
    for (int l = 0; l < 32; l++)
      if ((m >> l) & 1) {
        u64 f = arg_of(w, i, 0, 8, l), a = arg_of(w, i, 1, 8, l);
        std::string s = format(w, (const char*)w.resolve(Space::Generic, f, 1, l, false), a, l);
        fwrite(s.data(), 1, s.size(), stdout);
        set_ret(w, i, 1, 4, l);
      }
    fflush(stdout);
    return true;
  }
  if (name == "__assertfail") {
    int l = __builtin_ctz(m);
    auto str = [&](int k) {
      u64 p = arg_of(w, i, k, 8, l);
      return std::string((const char*)w.resolve(Space::Generic, p, 1, l, false));
    };
    throw SimError(kAssert, str(1) + ":" + std::to_string((u32)arg_of(w, i, 2, 4, l)) + ": " + str(3) + ": Assertion `" + str(0) + "` failed", l);
  }
  if (name == "malloc") {
    lanes(m, [&](int l) { set_ret(w, i, mem_alloc(arg_of(w, i, 0, 8, l), "device malloc"), 8, l); });
    return true;
  }
  if (name == "free") {
    lanes(m, [&](int l) {
      u64 p = arg_of(w, i, 0, 8, l);
      if (p) mem_free(p);
    });
    return true;
  }
  return false;
}

}  // namespace atoll::gpusim
