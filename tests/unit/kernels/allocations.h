// How often this test program called operator new so far, outside of libraries' own calls (LibraryCall).
#pragma once

namespace atoll::test {
long num_own_allocations();
}
