/* Programs include it, and nearly all there is with it. */
#include <bits/stdc++.h>
