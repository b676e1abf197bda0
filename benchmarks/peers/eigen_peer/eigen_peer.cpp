// Eigen's ConjugateGradient on one loaded problem.
//
// Usage: eigen_peer FOLDER TAG KIND PRECONDITIONER N NNZ COLUMNS
//   KIND            csr | dense
//   PRECONDITIONER  identity | diagonal | incomplete_cholesky (sparse only; unknowns in their own order)
// It sleeps in a blocking read of the pipe FOLDER/TAG.0 and answers every command with one line of JSON on the
// standard output; external.py describes the commands. Both triangles are stored and used (Lower|Upper), row by
// row: the setting in which Eigen multiplies with OpenMP threads.

#include <eigen3/Eigen/Dense>
#include <eigen3/Eigen/Sparse>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using Sparse = Eigen::SparseMatrix<double, Eigen::RowMajor, std::int32_t>;
using Dense = Eigen::MatrixXd;
using Vector = Eigen::VectorXd;

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T>
static std::vector<T> load(const std::string& path, std::size_t count) {
    std::vector<T> values(count);
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
    if (!file) throw std::runtime_error("cannot read " + path);
    return values;
}

// Answers "setup", "fixed ITERATIONS SOLVES" and "solve RTOL MAXITER" until the pipe closes or says "quit".
template <class Matrix, class Preconditioner, class Loaded>
static void serve(const Loaded& loaded, const Dense& B, const std::string& folder, const std::string& tag) {
    using Solver = Eigen::ConjugateGradient<Matrix, Eigen::Lower | Eigen::Upper, Preconditioner>;
    Matrix A;
    std::unique_ptr<Solver> solver;
    auto setup = [&] {
        const double start = now();
        A = loaded;
        solver = std::make_unique<Solver>();
        solver->compute(A);
        return now() - start;
    };
    Vector x(B.rows());
    std::ifstream commands(folder + "/" + tag + ".0");
    std::cout.precision(17);
    std::cout << "{\"ready\": \"" << EIGEN_WORLD_VERSION << '.' << EIGEN_MAJOR_VERSION << '.' << EIGEN_MINOR_VERSION
              << "\", \"threads\": " << Eigen::nbThreads() << ", \"compiler\": \"" << __VERSION__ << "\"}" << std::endl;
    for (std::string line; std::getline(commands, line);) {
        std::istringstream words(line);
        std::string command;
        words >> command;
        if (command == "setup") {
            std::cout << "{\"seconds\": " << setup() << "}" << std::endl;
        } else if (command == "fixed") {
            int iterations = 0;
            long solves = 0;
            words >> iterations >> solves;
            if (!solver) setup();
            solver->setTolerance(0.0);
            solver->setMaxIterations(iterations);
            const Vector b = B.col(0);
            const double start = now();
            for (long i = 0; i < solves; ++i) x = solver->solve(b);
            const double seconds = now() - start;
            std::cout << "{\"seconds\": " << seconds << ", \"iterations\": " << solver->iterations() << "}" << std::endl;
        } else if (command == "solve") {
            double rtol = 0.0;
            int maxiter = 0;
            words >> rtol >> maxiter;
            solver->setTolerance(rtol);
            solver->setMaxIterations(maxiter);
            double seconds = 0.0;
            long iterations = 0;
            std::ofstream solution(folder + "/" + tag + ".x", std::ios::binary);
            for (Eigen::Index column = 0; column < B.cols(); ++column) {
                const Vector b = B.col(column);
                const double start = now();
                x = solver->solve(b);
                seconds += now() - start;
                iterations += solver->iterations();
                solution.write(reinterpret_cast<const char*>(x.data()),
                               static_cast<std::streamsize>(x.size() * sizeof(double)));
            }
            solution.close();
            const bool converged = solver->info() == Eigen::Success;
            std::cout << "{\"seconds\": " << seconds << ", \"iterations\": " << iterations << ", \"converged\": "
                      << (converged ? "true" : "false") << ", \"reason\": \""
                      << (converged ? "converged" : iterations >= maxiter ? "iterations used up" : "breakdown") << "\"}"
                      << std::endl;
        } else {
            break;
        }
    }
}

int main(int argc, char** argv) {
    if (argc != 8) {
        std::cerr << "usage: eigen_peer FOLDER TAG KIND PRECONDITIONER N NNZ COLUMNS\n";
        return 2;
    }
    const std::string folder = argv[1], tag = argv[2], kind = argv[3], preconditioner = argv[4];
    const std::int32_t n = std::stoi(argv[5]), nnz = std::stoi(argv[6]), columns = std::stoi(argv[7]);
    const bool diagonal = preconditioner == "diagonal";
    const auto rhs = load<double>(folder + "/rhs.f64", std::size_t(n) * columns);
    const Dense B = Eigen::Map<const Dense>(rhs.data(), n, columns);
    if (kind == "dense") {
        const auto data = load<double>(folder + "/data.f64", std::size_t(n) * n);
        const Eigen::Map<const Dense> A(data.data(), n, n);
        if (diagonal) serve<Dense, Eigen::DiagonalPreconditioner<double>>(A, B, folder, tag);
        else serve<Dense, Eigen::IdentityPreconditioner>(A, B, folder, tag);
    } else {
        const auto indptr = load<std::int32_t>(folder + "/indptr.i32", std::size_t(n) + 1);
        const auto indices = load<std::int32_t>(folder + "/indices.i32", nnz);
        const auto data = load<double>(folder + "/data.f64", nnz);
        const Eigen::Map<const Sparse> A(n, n, nnz, indptr.data(), indices.data(), data.data());
        using Incomplete = Eigen::IncompleteCholesky<double, Eigen::Lower, Eigen::NaturalOrdering<std::int32_t>>;
        if (preconditioner == "incomplete_cholesky") serve<Sparse, Incomplete>(A, B, folder, tag);
        else if (diagonal) serve<Sparse, Eigen::DiagonalPreconditioner<double>>(A, B, folder, tag);
        else serve<Sparse, Eigen::IdentityPreconditioner>(A, B, folder, tag);
    }
}
